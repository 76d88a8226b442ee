"""Keys, tokens and passwords: in nothing that is printed or written, however a server or a command line brings them."""

import base64
import html
import io
import json
import re
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from conftest import Finished, run_script
from downloading import online as online
from downloading import stored
from hypothesis import given
from hypothesis import strategies as st
from servers import hub_store
from servers.faulty_openai import Fault, FaultyServer, Seen, completion, error
from servers.hub import HubServer

from leap.errors import LeapError
from leap.inference.vllm_server import _hide_secrets, _start
from leap.models.export import push_model
from leap.provenance import command
from leap.records.files import write_atomic
from leap.records.json_files import write_json
from leap.redaction import HIDDEN, HidingStream, hide, hide_all

KEY, PASSWORD = "sk-Te/st+0123=456789", "hunter2&co"
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=60)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@given(key=KEYS, around=st.text(max_size=20))
def test_a_key_is_hidden_in_every_spelling(key: str, around: str) -> None:
    if (key.isalpha() and len(key) < 12) or (key.isdigit() and len(key) < 8) or re.search(r"^[/~.].*\.[a-z]+$", key):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_API_KEY", key)
        for spelling in (key, quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1], html.escape(key)):
            assert spelling not in hide(f"{around}{spelling}{around}").replace(HIDDEN, "")
        assert hide(f"Bearer {key} ") == f"Bearer {HIDDEN} "


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OPENAI_API_KEY", "EMPTY"), ("A_KEY", "ollama"), ("B_TOKEN", "1"), ("C_KEY", "/etc/key.pem")):
        monkeypatch.setenv(name, value)
    text = "EMPTY ollama 1 /etc/key.pem git@github.com ssh://git@github.com/a"
    monkeypatch.setenv("REMOTE", text)
    assert hide(text) == text


@pytest.mark.parametrize(
    "name",
    [
        *("OPENAI_APIKEY", "MY_API_KEYS", "apikey", "Api-Key", "HF_TOKEN_2", "WANDB_API_KEY1", "ACCESS_TOKEN_OLD"),
        *("GITHUB_PAT", "DB_PASS", "MYSQL_PWD", "AZURE_CREDENTIALS", "SECRET_SAUCE", "PROXY_AUTHORIZATION"),
    ],
)
@pytest.mark.parametrize(
    "secret", ["Zz9-value", "onlyletterswithoutanydigit", "/Ab3dEf6h+kLm", ".x3dEf6h/kLm", "20261128"]
)
def test_variables_that_hold_secrets(name: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, secret)
    assert hide(f"bad {secret}!") == f"bad {HIDDEN}!"


@pytest.mark.parametrize(("name", "value"), [("MAX_TOKENS", "1000000"), ("TOKENIZERS_PARALLELISM", "falsehood1")])
def test_variables_that_hold_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert hide(f'{{"n": {value}}}') == f'{{"n": {value}}}'


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("http://host/v1?api_key=query-secret", "query-secret"),
        ("http://host/v1?version=1&key=query%20secret", "query secret"),
        ("https://host/x?X-Amz-Signature=0123456789abcdef", "0123456789abcdef"),
        ("http://tok3n-alone@host/v1", "tok3n-alone"),
        ("http://bob:swordfish@host/v1", "swordfish"),
    ],
)
def test_secrets_in_addresses(address: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--base_url", address])
    assert hide(f"{secret} is wrong") == f"{HIDDEN} is wrong"
    assert secret.partition(" ")[0] not in command()


def test_a_proxy_without_a_scheme_has_a_password_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "me:proxy-pw@proxy:3128")
    assert hide("me:proxy-pw@proxy, proxy-pw") == f"{HIDDEN}proxy, {HIDDEN}"


def test_where_secrets_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:proxy-pw@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "--base_url", "http://u:p@h/v1", "--vllm_args", "--hf-token hf_other --x 1", "--api-key=abc-12"],
    )
    message = hide("me:proxy-pw@proxy proxy-pw hf_test hf_other abc-12 http://u:p@h/v1 x 1")
    assert message == " ".join([f"{HIDDEN}proxy", *[HIDDEN] * 4, f"http://{HIDDEN}h/v1", "x", "1"])
    assert base64.b64encode(b"me:proxy-pw").decode() not in hide(f"Basic {base64.b64encode(b'me:proxy-pw').decode()}")
    assert not {"u:p", "hf_other", "abc-12"} & set(command().replace("'", " ").replace("@", " ").split())
    assert "hf_other" not in command()


def test_everything_that_leaves_is_hidden(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    print("the key is", key, file=HidingStream(screen))
    write_json(tmp_path / "a.json", {"key": key})
    write_atomic(tmp_path / "a.txt", f"{key}\n")
    assert hide_all({key: [key, 1]}) == {HIDDEN: [HIDDEN, 1]}
    assert str(LeapError(f"wrong key {key}")) == f"wrong key {HIDDEN}"
    assert screen.getvalue() == f"the key is {HIDDEN}\n"
    assert {path.read_text() for path in tmp_path.iterdir()} == {f'{{\n  "key": "{HIDDEN}"\n}}\n', f"{HIDDEN}\n"}


def test_a_servers_log_keeps_no_secret(key: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _start(
        [sys.executable, "-c", "import os; print(os.environ['OPENAI_API_KEY'])", key], {"OPENAI_API_KEY": key}, log
    ).wait()
    assert key in log.read_text()
    _hide_secrets(log)
    assert key not in log.read_text()
    assert log.read_text().count(HIDDEN) == 2


def leaks(folder: Path, done: Finished) -> list[str]:
    """Where a secret stands: files, their names, the screen."""
    secrets = [KEY, quote(KEY, safe=""), KEY[:12], PASSWORD, quote(PASSWORD), "hf_test"]
    texts = {str(path): f"{path} {path.read_text(errors='replace')}" for path in folder.rglob("*") if path.is_file()}
    texts |= {"stdout": done.stdout, "stderr": done.stderr}
    return [place for place, text in texts.items() if any(secret in text for secret in secrets)]


def telling(seen: Seen) -> Fault:
    """A server that says the key in its errors, its model's name and its answers."""
    if seen.number == 0:
        return Fault("400", 400, error(f"wrong: {KEY}, {quote(KEY, safe='')} of me:{quote(PASSWORD)}@"))
    body = json.loads(completion(f"[] {KEY} {quote(KEY, safe='')}"))
    return Fault("answer", body=json.dumps({**body, "model": KEY}).encode())


def address(server: FaultyServer) -> str:
    return server.url.replace("http://", f"http://me:{quote(PASSWORD)}@")


def test_an_evaluation_stores_no_secret(key: str, workspace: Path, tmp_path: Path) -> None:
    script = "scripts/evaluation/run_vlm_evaluation.py"
    with FaultyServer(telling, models=(KEY,)) as server:
        flags = ("--engine", "openai", "--base_url", address(server), "--dimension", "Spatial", "--output_dir")
        done = run_script(script, *flags, str(tmp_path), root=workspace)
        assert done.returncode == 1  # one request was refused
        again = run_script(script, *flags, str(tmp_path), root=workspace)  # its own results are known again
    assert again.returncode == 0, again.stderr
    assert {seen.body["model"] for seen in server.seen} == {KEY}  # it is asked for by its name
    (manifest,) = tmp_path.rglob("manifest.json")
    assert json.loads(manifest.read_text())["inference"][-1]["server_model"] == HIDDEN
    assert HIDDEN in json.loads(manifest.read_text())["command"]
    assert leaks(tmp_path, done) == leaks(tmp_path, again) == []


def test_a_blind_review_stores_no_secret(key: str, workspace: Path, tmp_path: Path) -> None:
    with FaultyServer(telling, models=(KEY,)) as server:
        flags = ("--save_dir", str(tmp_path), "--max_samples", "2")
        asked = ("--engine", "openai", "--base_url", address(server))
        outputs = run_script("scripts/evaluation/run_vlm_output.py", *flags, *asked, root=workspace)
        judged = ("--save_dir", str(tmp_path), "--api_base", address(server), "--verdict_retries", "0")
        done = run_script("scripts/evaluation/analyze_output_results.py", *judged, root=workspace)
    assert len(server.seen) > 2
    assert leaks(tmp_path, outputs) == leaks(tmp_path, done) == []


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_hub_that_quotes_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    message = {"X-Error-Message": "x" * 195 + " hf_test is no token"}  # where the text is cut, too
    with HubServer([stored()], lambda seen: hub_store.Fault("echo", status, headers=message)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http://", f"http://me:{PASSWORD}@"))
        done = run_script(
            *"scripts/download/download_model.py someone/data --initial_sleep 0 --max_tries 2".split(), root=tmp_path
        )
        assert done.returncode == 1
        hub.reset(lambda seen: None)
    assert leaks(tmp_path, done) == []
    with pytest.raises(LeapError) as refused:
        push_model(tmp_path, "a b hf_test", private=False)
    assert "hf_test" not in str(refused.value)
