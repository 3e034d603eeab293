"""Models over several devices: placements are declared, collectives follow, and the plan is checked before it runs.

| module | holds |
|---|---|
| mesh | ranks as named axes, groups as sets of ranks |
| placements | weights, and which slice of them each rank has |
| contract | what a model declares: modules and what they compute, by laws |
| blocks | the usual modules, declared |
| derivation | from laws and slices to what each rank computes and owes |
| links, compiler, plan | the cheapest straight list of calls |

A model gives `declare(config) -> Model` (torch-free, about 30 lines with blocks.py) and for each `kind` of module
the code that runs it: a callable made with the rank's slices of the module's weights, called with rows
[rows, hidden] and the step, that returns this rank's term of the output. It knows neither ranks nor collectives.
"""
