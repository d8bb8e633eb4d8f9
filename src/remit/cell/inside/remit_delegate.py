"""`remit delegate` in a cell: hand a part of the work, and of the authority, to a task in a cell of its own.

    remit delegate --role ROLE [--capability NAME] [--budget requests=3] [--stdin] -- COMMAND...

What the command writes comes out here, and its exit code is this one's. It ends when this ends, however it does.
Exit codes of its own, as those of `remit run`: 2 usage, 5 refused, 6 a part of the node is missing or was lost.
"""

import base64
import http.client
import json
import signal
import sys
from typing import Any

HOST, PATH = "delegate.remit.alt", "/v1/tasks"
CONNECT_S, SILENCE_S = 60, 60
"""Longer than a cell takes to start; signs of life come every 15 s."""
MAX_STDIN_BYTES = 512 << 10
MAX_LINE_BYTES = 1 << 20
LISTS = {"--budget": "budgets", "--capability": "capabilities"}
EXIT = {400: 2, 403: 5, 409: 5, 421: 5, 429: 5}


class Failure(Exception):
    def __init__(self, code: int, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code, self.hint = code, hint


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        arguments = ["delegate", "--help"]
    if not arguments or arguments[0] != "delegate":
        what = f"no command {arguments[0]!r} in a cell" if arguments else "which command?"
        raise Failure(2, what, "in a cell there is: remit delegate --role ROLE -- COMMAND")
    wanted = parsed(arguments[1:])
    if wanted is None:
        print((__doc__ or "").strip())
        return 0
    return follow(ask(wanted))


def parsed(arguments: list[str]) -> dict[str, Any] | None:
    """The body to send; None where help is wanted."""
    wanted: dict[str, Any] = {"role": ""}
    given = iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if argument in ("-h", "--help"):
            return None
        if argument == "--":
            wanted["command"] = list(given)
        elif argument == "--stdin":
            wanted["stdin"] = standard_input()
        elif name in ("--role", *LISTS):
            value = value if equals else next(given, "")
            value = f"requests={value}" if name == "--budget" and value.isdigit() else value
            if name == "--role":
                wanted["role"] = value
            else:
                wanted.setdefault(LISTS[name], []).append(value)
        elif argument.startswith("-"):
            raise Failure(2, f"no option {argument!r}", "remit delegate --help")
        else:
            wanted["command"] = [argument, *given]
    if not wanted["role"] or not wanted.get("command"):
        raise Failure(2, "a role and a command are needed", "remit delegate --role ROLE -- COMMAND")
    return wanted


def standard_input() -> str:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise Failure(2, f"standard input is over {MAX_STDIN_BYTES} bytes", "hand over less")
    return base64.b64encode(data).decode()


def ask(wanted: dict[str, Any]) -> http.client.HTTPResponse:
    """The answer, whose lines are still to come."""
    try:
        body = json.dumps(wanted, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Failure(2, "the command is not UTF-8", "hand such bytes over with --stdin") from None
    connection = http.client.HTTPConnection(HOST, 80, timeout=CONNECT_S)
    try:
        connection.request("POST", PATH, body, {"content-type": "application/json"})
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(6, f"{HOST} does not answer: {error}", "retry") from None
    if answer.status == 200:
        return answer
    try:
        problem = json.loads(answer.read(MAX_LINE_BYTES))
        detail, hint = f"{problem['detail']} ({problem['reason']}, record {problem['record']})", problem["next"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        detail, hint = f"the answer was {answer.status}", ""
    raise Failure(EXIT.get(answer.status, 6), detail, hint)


def follow(answer: http.client.HTTPResponse) -> int:
    """Write what the child writes, until its end; its exit code."""
    streams = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    while True:
        try:
            line = answer.readline(MAX_LINE_BYTES)
            said = json.loads(line) if line.endswith(b"\n") else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failure(6, f"the task was lost: {error}") from None
        if not said:
            raise Failure(6, "the task was lost: its connection was cut", "it ends with the task that asked for it")
        event = said.get("event")
        if event in streams:
            streams[event].write(base64.b64decode(said["data"]))
            streams[event].flush()
        elif event == "exit":
            if said.get("truncated"):
                print("remit: the task wrote more than is passed on", file=sys.stderr)
            if said.get("detail"):
                print(f"remit: {said['detail']}", file=sys.stderr)
            return 6 if said.get("code") is None else int(said["code"])


if __name__ == "__main__":
    # Python would turn these into an exception somewhere; as by default, they just end it, and so the child.
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        if failure.hint:
            print(f"hint: {failure.hint}", file=sys.stderr)
        sys.exit(failure.code)
