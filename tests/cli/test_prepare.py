"""`prefetch` and `doctor`: what is refused before anything is fetched or looked at."""


def test_unknown_names_are_refused(refused):
    assert "unknown recipe 'zephyr-8b' (did you mean zephyr-7b?)" in refused("prefetch", "--cache", "x", "--recipe", "zephyr-8b")
    assert "unknown cluster 'cpus' (did you mean cpu?)" in refused("doctor", "--cluster", "cpus")
    assert "unknown sweep 'sedes' (did you mean seeds?)" in refused("doctor", "--sweep", "sedes")
