def write_tla(spec, folder):
    return []
