"""Runs a real coding agent against a server whose model follows a script: `python agent_session.py AGENT COMMAND`.

AGENT is claude, codex or opencode, COMMAND its program. Meant to be started where there is no network but loopback. The
script calls the agent's shell tool twice and ends; prints what the agent wrote, and exits with its status.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import stand_ins

SECONDS = 120


def script(tool: str, arguments: Mapping[str, object]) -> str:
    """Two calls of the shell tool, each after the other's answer, and a last word."""
    calls = []
    for word in ("one", "two"):
        values = {key: f"echo tool-{word}" if value == "COMMAND" else value for key, value in arguments.items()}
        calls.append(f"<tool_call>\n{json.dumps({'name': tool, 'arguments': values})}\n</tool_call>")
    return f"say:I look.\n{calls[0]}~{calls[1]}~All done.|"


def claude(command: str, url: str, home: Path) -> tuple[list[str], dict[str, str], str]:
    """Claude Code, which speaks Anthropic's Messages."""
    prompt = script("Bash", {"command": "COMMAND", "description": "say a word"})
    arguments = [command, "-p", prompt, "--allowedTools", "Bash", "--output-format", "json"]
    names = ("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL")
    off = (
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "DISABLE_TELEMETRY",
        "DISABLE_ERROR_REPORTING",
        "DISABLE_AUTOUPDATER",
    )
    return arguments, {
        "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "none",
        **dict.fromkeys(names, "fake"), **dict.fromkeys(off, "1"),
    }, ""  # fmt: skip


def codex(command: str, url: str, home: Path) -> tuple[list[str], dict[str, str], str]:
    """Codex, which speaks OpenAI's Responses."""
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        'model = "fake"\nmodel_provider = "local"\n[model_providers.local]\nname = "local"\n'
        f'base_url = "{url}/v1"\nenv_key = "LOCAL_KEY"\nwire_api = "responses"\n'
    )
    prompt = script(*CODEX_TOOL)
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"]
    return [command, "exec", *flags, prompt], {"LOCAL_KEY": "none"}, ""


CODEX_TOOL: tuple[str, Mapping[str, object]] = ("exec_command", {"cmd": "COMMAND"})


def opencode(command: str, url: str, home: Path) -> tuple[list[str], dict[str, str], str]:
    """opencode, which speaks OpenAI's chat completions."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": "none"},
        "models": {"fake": {"name": "fake"}},
    }
    config = {"$schema": "https://opencode.ai/config.json", "provider": {"local": provider}, "model": "local/fake"}
    (home / "opencode.json").write_text(json.dumps(config))
    prompt = script("bash", {"command": "COMMAND", "description": "say a word"})
    off = ("OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH")
    return [command, "run", "-m", "local/fake"], dict.fromkeys(off, "1"), prompt


AGENTS = {"claude": claude, "codex": codex, "opencode": opencode}


def main() -> int:
    """Start the server, run the agent, and tell what it wrote and how often each endpoint was called."""
    name, command = sys.argv[1:3]
    config = stand_ins.small_config(num_blocks=16384, block_size=16, max_step_tokens=16384)
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_ins.running_server(config, rule=stand_ins.by_turn) as server,
    ):
        model = server.service.model
        assert model is not None
        server.service.model = replace(model, aliases=("*",))
        arguments, variables, words = AGENTS[name](command, server.url, Path(folder))
        environment = {"PATH": os.environ["PATH"], "HOME": folder, **variables}
        result = subprocess.run(
            arguments, cwd=folder, env=environment, input=words, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        print(result.stdout)
        print(result.stderr, file=sys.stderr)
        hits = server.metric("tokenspeed_prefix_cache_hits_total")
        queries = server.metric("tokenspeed_prefix_cache_queries_total")
        print(f"cached {hits:.0f} of {queries:.0f} prompt tokens", file=sys.stderr)
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
