"""Is the compiled scheduler what the specification says?"""
