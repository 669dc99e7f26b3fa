"""Self-play by vLLM: what it is asked for, and what comes back. vLLM needs a GPU, so a stand-in with its interface answers here."""

import inspect
import json
import re
import sys

import pytest
from torch.distributed.elastic.agent.server import local_elastic_agent
from torch.distributed.launcher.api import elastic_launch

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.optim import launch
from spac_repro.recipe import SelfPlaySettings
from spac_repro.sampling import selfplay, vllm
from spac_repro.seeds import derive_seed

STOP, OTHER_STOP, LONGEST = 2, 4, 6
HOW = {"ignore_eos": True, "detokenize": False}
PROMPTS = [[5 + i] * (1 + i % 3) for i in range(5)]

# It answers with the request's seed and prompt in tokens, so that a test sees who got what; the first prompt's answer never stops.
STAND_IN = """
import json, os, types
class SamplingParams:
    def __init__(self, **given): self.given = given
class LLM:
    def __init__(self, **given):
        print("a banner on the standard output")
        self.log = open(os.environ["STAND_IN_LOG"], "a")
        self.note(engine=given, rank=os.environ.get("RANK"), cards=os.environ.get("CUDA_VISIBLE_DEVICES"))
    def note(self, **what):
        self.log.write(json.dumps(what) + "\\n")
        self.log.flush()
    def generate(self, prompts, sampling, use_tqdm):
        self.note(prompts=prompts, sampling=[its.given for its in sampling])
        if os.environ.get("STAND_IN_DIES"):
            os._exit(9)
        answers = []
        for prompt, its in zip(prompts, sampling):
            ids = [its.given["seed"] % 1000, prompt["prompt_token_ids"][0]]
            kind = {1: (ids * 3, "length"), 2: ([*ids, 2], "stop"), 3: (ids, "stop")}[len(prompt["prompt_token_ids"])]
            output = types.SimpleNamespace(token_ids=tuple(kind[0]), finish_reason=kind[1], stop_reason=4)
            answers.append(types.SimpleNamespace(outputs=[output]))
        return answers
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """What the stand-in noted, a line each; it is vLLM in this test and in the processes that it starts."""
    (tmp_path / "modules" / "vllm").mkdir(parents=True)
    (tmp_path / "modules" / "vllm" / "__init__.py").write_text(STAND_IN)
    for name in ("vllm", "torch", "transformers"):
        folder = tmp_path / "modules" / f"{name}-9.9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv(vllm.PYTHON_VARIABLE, sys.executable)
    vllm.versions.cache_clear()
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    return lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def sampler(folder):
    return vllm.Sampler(
        folder,
        dtype="bfloat16",
        temperature=0.9,
        top_p=0.8,
        max_prompt_tokens=10,
        max_response_tokens=LONGEST,
        stop_token_ids=[STOP, OTHER_STOP],
    )


def respond(folder, kept=None):
    how = SelfPlaySettings(temperature=0.9, top_p=0.8, prompts_per_seed=2, decode_batch_size=None, backend="vllm")
    with sampler(folder) as sample:
        return selfplay.sample_responses(
            None,
            PROMPTS,
            how,
            max_response_tokens=LONGEST,
            pad_token_id=0,
            stop_token_ids=[STOP, OTHER_STOP],
            seed=7,
            folder=kept,
            sample=sample,
        )


def test_every_prompt_gets_its_own_answer_and_seed(tmp_path, log):
    responses = respond(tmp_path)
    engine, *batches = log()
    asked = {}
    for number, batch in enumerate(batches):
        for place, (prompt, its) in enumerate(zip(batch["prompts"], batch["sampling"], strict=True)):
            assert its.pop("seed") == derive_seed(derive_seed(7, number), place)
            assert its == {"temperature": 0.9, "top_p": 0.8, "max_tokens": LONGEST, "stop_token_ids": [STOP, OTHER_STOP], **HOW}
            asked[prompt["prompt_token_ids"][0]] = derive_seed(derive_seed(7, number), place) % 1000
    assert engine["engine"]["model"] == str(tmp_path)
    assert (engine["engine"]["dtype"], engine["engine"]["max_model_len"]) == ("bfloat16", 10 + LONGEST)
    assert not engine["engine"]["trust_remote_code"]
    for (first, *others), response in zip(PROMPTS, responses, strict=True):
        end = OTHER_STOP if len(others) == 2 else STOP  # where vLLM left it out of the tokens, it says which it was
        assert response == ([asked[first], first, end] if others else [asked[first], first] * 3)


def test_finished_batches_are_not_drawn_again(tmp_path, log):
    first = respond(tmp_path, tmp_path / "kept")
    noted = len(log())
    assert respond(tmp_path, tmp_path / "kept") == first
    assert len(log()) == noted  # not even started


def test_each_process_has_its_own_gpu(tmp_path, log, monkeypatch):
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,7"}.items():
        monkeypatch.setenv(name, value)
    with sampler(tmp_path) as sample:
        sample(PROMPTS[:1], 1)
    assert (log()[0]["cards"], log()[0]["rank"]) == ("7", None)  # and torchrun's variables mean nothing to it


def test_a_crash_of_vllm_is_reported(tmp_path, log, monkeypatch):
    monkeypatch.setenv("STAND_IN_DIES", "1")
    with pytest.raises(UnfitEnvironmentError, match="vLLM ended with exit code 9"):
        respond(tmp_path)


def test_a_kill_between_batches_is_reported(tmp_path, log):
    """Closing the pipe of a killed process raises no second error."""

    def killed_after_one():
        with sampler(tmp_path) as sample:
            sample(PROMPTS[:1], 1)
            sample.process.kill()
            sample.process.wait()
            sample(PROMPTS[:1], 2)

    with pytest.raises(UnfitEnvironmentError, match="vLLM ended with exit code -9"):
        killed_after_one()


def test_missing_vllm_is_reported_with_the_remedies(tmp_path, monkeypatch):
    for python in (tmp_path / "none" / "python", sys.executable):  # no environment, and one without vLLM
        monkeypatch.setenv(vllm.PYTHON_VARIABLE, str(python))
        vllm.versions.cache_clear()
        with pytest.raises(UnfitEnvironmentError, match=r"`make vllm` installs it.*selfplay.backend=transformers does without"):
            vllm.versions()


def test_its_versions_are_those_of_its_own_environment(log):
    assert vllm.versions() == {"vllm": "9.9", "torch": "9.9", "transformers": "9.9"}


def test_the_worker_needs_nothing_of_this_package(log, tmp_path):
    """Its environment holds neither this package nor what it imports."""
    source = vllm.WORKER.read_text()
    assert {node.split()[1] for node in re.findall(r"^ *(?:from|import) \S+", source, re.MULTILINE)} == {
        *("json", "os", "sys", "typing", "vllm")
    }


def test_every_variable_of_the_elastic_agent_is_withheld():
    """Those that the installed torch gives its workers, by its own source; OMP_NUM_THREADS alone is the worker's, too."""
    source = inspect.getsource(local_elastic_agent)
    given = {*re.findall(r'"([A-Z][A-Z_]+)":', source), *re.findall(r'worker_env\["([A-Z_]+)"\]', source)}
    assert {"RANK", "ROLE_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE", "OMP_NUM_THREADS", "TORCHELASTIC_ERROR_FILE"} <= given | {
        "TORCHELASTIC_ERROR_FILE"
    }
    others = {"PET_NNODES", "ACCELERATE_USE_DEEPSPEED", "TORCHELASTIC_ERROR_FILE", "LOCAL_RANK"}
    kept = {"OMP_NUM_THREADS": "1", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "LOCALE": "C", "VLLM_CACHE_ROOT": "/x"}
    assert vllm.without_launcher({**dict.fromkeys(given | others, "1"), **kept}) == kept


GROUP_OF_ONE = """
import datetime, sys
import torch.distributed as dist
where, patience = f"tcp://127.0.0.1:{sys.argv[1]}", datetime.timedelta(seconds=3)
dist.init_process_group("gloo", init_method=where, world_size=1, rank=0, timeout=patience)
"""
IN_A_CHILD = """
import os, socket, subprocess, sys
from spac_repro.sampling import vllm
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
environment = vllm.without_launcher(os.environ) if sys.argv[1] == "without" else dict(os.environ)
done = subprocess.run([sys.executable, "-c", sys.argv[2], str(port)], env=environment, capture_output=True, text=True)
sys.exit(0 if (done.returncode == 0) == (sys.argv[1] == "without") else 7)
"""


@pytest.mark.check
@pytest.mark.parametrize("variables", ["without", "with"])
def test_a_group_of_one_in_a_child_of_elastic_launch(variables):
    """What vLLM does on every rank. With the agent's variables it waits for a store that nobody serves, and fails."""
    config = launch._launch_config(1, 1)
    elastic_launch(config, sys.executable)("-c", IN_A_CHILD, variables, GROUP_OF_ONE)
