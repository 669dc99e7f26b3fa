"""`image …`, where no engine is needed."""


def test_what_is_carried_out_inside_is_a_command(refused):
    assert "training goes the other way round: `spac-repro train --in IMAGE …`" in refused("image", "run", "docker:x", "train")
    for words in (["shwo"], ["recipes"], ["recipes", "shwo"]):
        message = refused("image", "run", "docker:x", *words)
        assert message == f"{' '.join(words)!r} is no command of spac-repro; see `spac-repro --help`"


def test_what_it_is_given_is_parsed_here(refused):
    assert "No such option: --quik" in refused("image", "run", "docker:x", "theory", "--quik")
    assert "missing does not exist, so it cannot be mounted" in refused("image", "run", "docker:x", "evaluate", "missing")
    assert "--memory lots is no size" in refused("image", "run", "--memory", "lots", "docker:x", "theory")


def test_what_names_no_image(refused):
    for command in (["inspect", "x"], ["inspect", "x", "--licences"], ["run", "x", "theory"]):
        assert "'x' names no image" in refused("image", *command)
