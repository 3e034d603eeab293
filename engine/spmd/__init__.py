"""Models over several devices: placements are declared, collectives follow, and the plan is checked before it runs.

| module | holds |
|---|---|
| mesh | ranks as named axes, groups as sets of ranks |
| placements | weights, and which slice of them each rank has |
| contract | what a model declares: modules and what they compute, by laws |
| blocks | the usual modules, declared |
| families | whole models, declared from their config.json |
| derivation | from laws and slices to what each rank computes and owes |
| links, compiler, plan | the cheapest straight list of calls |
| proof | the validator, and what `tokenspeed verify spmd` checks |
| runtime | the same on tensors: collectives, slices, the stack (needs torch) |

A plan is used so::

    model = declare(config)                               # families
    plan = compile_model(model, Mesh.of(Parallelism(tp=2, dp=2, ep=4)))
    validate(plan)                                        # proof.validator; refuses a plan that is not one device
    weights = LocalWeights(source, plan.mesh, rank, dtype=torch.bfloat16, device="cuda")
    stack = Stack(plan, rank, body=make_body, norm=make_norm, communicator=DistributedCommunicator(plan))
    hidden = stack.forward(ids, step, rows)               # in a world of one: forward([ids], step)
    logits = stack.logits(stack.select(hidden, rows), step, rows)

where `make_body(module)` gives the code for `module.kind`: a callable made with the rank's slices of the module's
weights, called with rows [rows, hidden] and the step, that returns this rank's term of the output. It knows neither
ranks nor collectives.
"""
