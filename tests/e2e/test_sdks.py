"""Unmodified SDKs and command lines in a real cell, against services that verify who is asking."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, wait_for
from verifying import HOSTS, Services

pytestmark = [pytest.mark.xdist_group("sdks"), pytest.mark.timeout(240)]

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: agent}}
spec: {{capabilities: [aws, openai, anthropic, crm, account, github, git, npm, registry, keys, tokens, maven, login, maps,
  panel]}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: aws}}
spec:
  hosts: [s3.sdk.example, dynamodb.sdk.example, sts.sdk.example]
  inject: {{sigv4: {{services: [s3, dynamodb, sts], regions: [eu-central-1]}}}}
  placeholders: [{{env: AWS_ACCESS_KEY_ID}}, {{env: AWS_SECRET_ACCESS_KEY}}]
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: openai}}
spec:
  hosts: [openai.sdk.example]
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
  placeholder: {{env: OPENAI_API_KEY}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: anthropic}}
spec: {{hosts: [anthropic.sdk.example], inject: {{header: {{name: X-Api-Key}}}}, placeholder: {{env: ANTHROPIC_API_KEY}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: crm}}
spec:
  hosts: [crm.sdk.example]
  inject:
    oauth2:
      grant: clientCredentials
      tokenUrl: https://auth.sdk.example:{port}/token
      clientId: remit
      addresses: [127.0.0.0/8]
  placeholder: {{env: CRM_TOKEN}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: account}}
spec:
  hosts: [crm.sdk.example]
  source: {{sealed: {{name: robot}}}}
  inject:
    jwtBearer:
      tokenUrl: https://auth.sdk.example:{port}/token
      issuer: robot@sdk.example
      addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: github}}
spec:
  hosts: [github.sdk.example]
  source: {{sealed: {{name: robot}}}}
  inject:
    githubApp:
      app: Iv1.app
      installation: 7
      apiUrl: https://github.sdk.example:{port}/api/v3
      addresses: [127.0.0.0/8]
  placeholder: {{env: GH_TOKEN}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: git}}
spec:
  hosts: [git.sdk.example]
  inject: {{basic: {{username: x-access-token}}}}
  placeholder: {{env: GIT_TOKEN, shape: github}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: git-other}}
spec:
  hosts: [git.sdk.example]
  source: {{sealed: {{name: keys-one}}}}
  inject: {{basic: {{username: x-access-token}}}}
  placeholder: {{env: GIT_OTHER_TOKEN, shape: github}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: npm}}
spec:
  hosts: [npm.sdk.example]
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
  placeholder: {{env: NPM_TOKEN}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: registry}}
spec:
  hosts: [registry.sdk.example]
  inject:
    registry:
      realm: https://auth.sdk.example:{port}/registry
      service: registry.sdk.example
      scopes: ["repository:team/image:pull"]
      user: puller
      addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: login}}
spec:
  hosts: [crm.sdk.example]
  inject:
    oauth2:
      grant: refreshToken
      tokenUrl: https://auth.sdk.example:{port}/token
      clientId: remit
      clientAuthentication: none
      addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: maven}}
spec: {{hosts: [maven.sdk.example], inject: {{basic: {{username: reader}}}}, placeholder: {{env: MAVEN_TOKEN}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: maven-other}}
spec: {{hosts: [maven.sdk.example], inject: {{basic: {{username: writer}}}}, placeholder: {{env: MAVEN_OTHER_TOKEN}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: maps}}
spec: {{hosts: [maps.sdk.example], inject: {{query: {{parameter: key}}}}, placeholder: {{env: MAPS_KEY}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: panel}}
spec: {{hosts: [panel.sdk.example], inject: {{cookie: {{name: session}}}}, placeholder: {{env: PANEL_SESSION}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: keys}}
spec:
  hosts: [keys.sdk.example]
  inject:
    headers:
      - {{name: X-Api-Key, key: one}}
      - {{name: X-App-Id, format: "App {{secret}}", key: two}}
"""

CAPABILITIES = {
    "aws": ("[s3.sdk.example, dynamodb.sdk.example, sts.sdk.example]", "credential: aws"),
    "openai": ("[openai.sdk.example]", "credential: openai"),
    "anthropic": ("[anthropic.sdk.example]", "credential: anthropic"),
    "account": ("[crm.sdk.example]", "credential: account, paths: [/account/**]"),
    "crm": ("[crm.sdk.example]", "credential: crm, paths: [/api/**]"),
    "github": ("[github.sdk.example]", "credential: github"),
    "git": ("[git.sdk.example]", "credentials: [git, git-other]"),
    "npm": ("[npm.sdk.example]", "credential: npm"),
    "registry": ("[registry.sdk.example]", "credential: registry"),
    "keys": ("[keys.sdk.example]", "credential: keys"),
    "maven": ("[maven.sdk.example]", "credentials: [maven, maven-other]"),
    "login": ("[crm.sdk.example]", "credential: login, paths: [/login/**]"),
    "maps": ("[maps.sdk.example]", "credential: maps"),
    "panel": ("[panel.sdk.example]", "credential: panel"),
    "tokens": ("[auth.sdk.example]", "methods: [POST]"),
}


def manifests(port: int) -> str:
    capabilities = "".join(
        f"---\napiVersion: remit.dev/v1alpha1\nkind: Capability\nmetadata: {{name: {name}}}\n"
        f"spec: {{hosts: {hosts}, ports: [{port}], addresses: [127.0.0.0/8], {more}}}\n"
        for name, (hosts, more) in CAPABILITIES.items()
    )
    return MANIFESTS.format(port=port) + capabilities


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = Services(tmp_path_factory.mktemp("services"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def instance(services: Services) -> Iterator[Instance]:
    made = Instance(hosts=dict.fromkeys(HOSTS, "127.0.0.1"), ca=services.authority.file)
    try:
        made.up()
        made.apply(manifests(services.port))
        key, secret, session = services.aws
        stored = {
            "aws": json.dumps({"accessKeyId": key, "secretAccessKey": secret, "sessionToken": session}),
            **{
                name: services.real[name]
                for name in ("openai", "anthropic", "git", "npm", "registry", "maven", "maps", "panel")
            },
            "crm": services.real["auth"],
            "robot": services.pem,
            "login": services.refresh,
            "keys-one": services.real["keys"],
            "keys": json.dumps({"one": services.real["keys"], "two": services.real["crm"]}),
        }
        for name, value in stored.items():
            made.secret(name, value)
        yield made
    finally:
        made.down()


AGENT = """
import json, os, subprocess, sys, traceback
PORT = int(sys.argv[1])
def url(name, path=""): return f"https://{name}.sdk.example:{PORT}{path}"
def run(*argv, **env):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr[-2000:]}

def aws():
    import boto3
    from botocore.config import Config
    region = {"region_name": "eu-central-1"}
    s3 = boto3.client("s3", endpoint_url=url("s3"), **region, config=Config(s3={"addressing_style": "path"}))
    s3.put_object(Bucket="bucket", Key="a b/c~\\u00e9+1.txt", Body=b"data", Metadata={"by": "agent"})
    with open("/tmp/large", "wb") as file: file.write(b"x" * 300_000)
    s3.upload_file("/tmp/large", "bucket", "large")
    found = {
        "get": s3.get_object(Bucket="bucket", Key="a b/c~\\u00e9+1.txt", Range="bytes=0-10")["Body"].read().decode(),
        "list": [one["Key"] for one in s3.list_objects_v2(Bucket="bucket", Prefix="", Delimiter="|")["Contents"]],
    }
    import urllib.request
    link = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "large"})
    found["presigned"] = len(urllib.request.urlopen(link, timeout=20).read())
    found["account"] = boto3.client("sts", endpoint_url=url("sts"), **region).get_caller_identity()["Account"]
    table = boto3.client("dynamodb", endpoint_url=url("dynamodb"), **region)
    table.put_item(TableName="t", Item={"id": {"S": "1"}, "n": {"N": "5"}})
    found["item"] = table.get_item(TableName="t", Key={"id": {"S": "1"}})["Item"]
    other = boto3.client("sts", endpoint_url=url("sts"), region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}))
    try: other.get_caller_identity()
    except Exception as error: found["other region"] = str(error)
    put = lambda **how: boto3.client("s3", endpoint_url=url("s3"), **region, config=Config(
        s3={"addressing_style": "path", **how}, request_checksum_calculation="when_required")).put_object
    put(payload_signing_enabled=False)(Bucket="bucket", Key="unsigned", Body=b"unsigned")
    put(payload_signing_enabled=True)(Bucket="bucket", Key="signed", Body=b"signed")
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    import requests
    class Chunks(S3SigV4Auth):  # as SDKs sign uploads that they cannot rewind
        def payload(self, request): return "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    asked = AWSRequest("PUT", url("s3", "/bucket/chunks"), data=b"4;chunk-signature=" + b"0" * 64 + b"\\r\\ndata\\r\\n")
    Chunks(Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]), "s3", "eu-central-1").add_auth(asked)
    found["chunks"] = requests.put(asked.url, data=asked.data, headers=dict(asked.headers), timeout=20).text
    return found

def openai():
    import openai
    client = openai.OpenAI(base_url=url("openai", "/v1"))
    said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    return said.choices[0].message.content

def anthropic():
    import anthropic
    ask = lambda client: client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]).content[0].text
    own = anthropic.Anthropic(base_url=url("anthropic"), default_headers={"Authorization": "Bearer mine"})
    return [ask(anthropic.Anthropic(base_url=url("anthropic"))), ask(own)]

def authlib():
    from authlib.integrations.requests_client import OAuth2Session
    session = OAuth2Session(token={"access_token": os.environ["CRM_TOKEN"], "token_type": "Bearer"})
    found = [session.get(url("crm", path), timeout=20).json() for path in ("/api/contacts", "/account/contacts")]
    echo = session.get(url("crm", "/api/echo"), timeout=20)
    found.append([echo.json()["token"][:20] == os.environ["CRM_TOKEN"][:20], echo.headers["x-echo"] == os.environ["CRM_TOKEN"]])
    own = OAuth2Session("remit", os.environ["CRM_TOKEN"])
    try: own.fetch_token(url("auth", "/token"), grant_type="client_credentials"); found.append("a token for a placeholder")
    except Exception as error: found.append(str(error))
    return found

def github():
    import requests
    headers = {"Authorization": "Bearer " + os.environ["GH_TOKEN"]}
    return requests.get(url("github", "/api/v3/repos/o/r"), headers=headers, timeout=20).json()

def gh():
    env = {"GH_HOST": f"github.sdk.example:{PORT}", "GH_ENTERPRISE_TOKEN": os.environ["GH_TOKEN"], "GH_CONFIG_DIR": "/tmp/gh"}
    return run("./gh", "api", "repos/o/r", **env)

def mvn():
    # a parent project is fetched from a private repository before anything is built
    os.makedirs("/tmp/mvn", exist_ok=True)
    with open("/tmp/mvn/settings.xml", "w") as file:
        file.write(f"<settings><localRepository>/tmp/mvn/repo</localRepository><servers><server><id>private</id><username>me</username>"
                   f"<password>{os.environ['MAVEN_TOKEN']}</password></server></servers></settings>")
    with open("/tmp/mvn/pom.xml", "w") as file:
        file.write(f"<project><modelVersion>4.0.0</modelVersion><parent><groupId>g</groupId><artifactId>parent</artifactId><version>1</version>"
                   f"<relativePath/></parent><artifactId>a</artifactId><packaging>pom</packaging><repositories><repository><id>private</id>"
                   f"<url>{url('maven', '/repo')}</url></repository></repositories></project>")
    return run("mvn", "-B", "-q", "-s", "/tmp/mvn/settings.xml", "-f", "/tmp/mvn/pom.xml", "validate")

def git():
    helper = "!f() { test \\"$1\\" = get && echo username=me && echo password=$GIT_SECRET; }; f"
    ask = lambda secret: run("git", "-c", "credential.helper=" + helper, "ls-remote", url("git", "/tool.git"), GIT_SECRET=secret, GIT_TERMINAL_PROMPT="0")
    return [ask(os.environ["GIT_TOKEN"]), ask(os.environ["GIT_OTHER_TOKEN"]), ask("ghp_0000000000000000000000000000000000mine")]

def npm():
    home = "/tmp/npm"; os.makedirs(home, exist_ok=True)
    with open(home + "/.npmrc", "w") as file:
        file.write(f"registry={url('npm', '/')}\\n//npm.sdk.example:{PORT}/:_authToken=${{NPM_TOKEN}}\\n")
    return run("npm", "view", "tool", "version", HOME=home, NPM_CONFIG_USERCONFIG=home + "/.npmrc", NPM_CONFIG_CACHE="/tmp/npm-cache")

def registry():
    import requests
    return [requests.get(url("registry", path), timeout=20).status_code for path in ("/v2/", "/v2/team/image/manifests/latest")]

def skopeo():
    image = f"registry.sdk.example:{PORT}/team/image:latest"
    return run("skopeo", "--insecure-policy", "copy", "docker://" + image, "dir:/tmp/image")

def curl():
    ask = lambda *argv: run("curl", "-sS", *argv)["out"]
    return [
        ask(url("maps", "/place?key=" + os.environ["MAPS_KEY"] + "&q=x")),
        ask("-b", "theme=dark; session=" + os.environ["PANEL_SESSION"], url("panel", "/")),
    ]

def keys():
    import requests
    return requests.get(url("keys", "/"), headers={"X-App-Id": "mine", "X-Api-Key": "mine", "Authorization": "Bearer mine"}, timeout=20).json()

for one in sys.argv[2:]:
    try: found = globals()[one]()
    except Exception: found = {"failed": traceback.format_exc()[-3000:]}
    print(json.dumps({one: found}), flush=True)
print(json.dumps({"environment": dict(os.environ)}))
"""

TRIED = [
    "aws",
    "openai",
    "anthropic",
    "authlib",
    "github",
    "git",
    "registry",
    "keys",
    "curl",
    *(one for one in ("npm", "gh", "mvn", "skopeo") if shutil.which(one)),
]


@pytest.fixture(scope="module")
def said(instance: Instance, services: Services, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each of them said, all in one cell."""
    workspace = tmp_path_factory.mktemp("agent")
    (workspace / "agent.py").write_text(AGENT)
    if program := shutil.which("gh"):
        shutil.copy(program, workspace / "gh")
    done = instance.run(
        "agent", sys.executable, "agent.py", str(services.port), *TRIED,
        options=["--workspace", str(workspace)], timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed = [line for line in done.stdout.splitlines() if '"failed": "' in line]
    assert not failed, "\n".join(json.dumps(json.loads(line), indent=1).replace("\\n", "\n") for line in failed)
    found: dict[str, Any] = {"all": done.stdout + done.stderr}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found


def test_boto3_puts_gets_lists_and_asks_who_it_is(said: dict[str, Any], services: Services) -> None:
    assert "signed for region us-east-1; the credential is for eu-central-1" in said["aws"].pop("other region")
    chunks = json.loads(said["aws"].pop("chunks"))
    assert chunks["reason"] == "signature_refused" and "payload_signing_enabled" in json.dumps(chunks), chunks
    assert "chunks" not in services.objects
    assert said["aws"] == {
        "get": "data",
        "list": ["a b/c~\u00e9+1.txt", "large"],
        "presigned": 300_000,
        "account": "123456789012",
        "item": {"id": {"S": "1"}, "n": {"N": "5"}},
    }, services.wrong
    assert services.objects["large"] == b"x" * 300_000
    declared = {a.path: a.headers["x-amz-content-sha256"] for a in services.asked if a.method == "PUT"}
    assert (services.objects["unsigned"], declared["/bucket/unsigned"]) == (b"unsigned", "UNSIGNED-PAYLOAD")
    assert services.objects["signed"] == b"signed" and len(declared["/bucket/signed"]) == 64


def test_the_sdks_of_model_providers(said: dict[str, Any], services: Services) -> None:
    assert said["openai"] == "hello from openai", services.wrong
    assert said["anthropic"] == ["hello from anthropic"] * 2, services.wrong


def test_an_oauth_client_uses_its_placeholder_as_the_token(said: dict[str, Any], services: Services) -> None:
    assert said["authlib"][:2] == [{"contacts": ["a"]}] * 2, services.wrong
    assert said["authlib"][2] == [True, True]  # a server that repeats what it was sent
    assert "invalid_client" in said["authlib"][3]  # its placeholder is no client secret, and nobody makes it one


def test_a_github_apps_installation_token(said: dict[str, Any], services: Services) -> None:
    assert said["github"] == {"full_name": "o/r"}, services.wrong


def test_git_asks_its_helper_after_a_challenge_and_chooses_by_placeholder(
    said: dict[str, Any], services: Services, instance: Instance
) -> None:
    for one in said["git"][:2]:
        assert (one["code"], "refs/heads/main" in one["out"]) == (0, True), one["err"]
    assert said["git"][2]["code"] != 0
    used = [r["credential"] for r in instance.audit(host="git.sdk.example") if r.get("decision") == "permit"]
    assert {"git", "git-other", None} <= set(used)
    reasons = [r["reason"] for r in instance.audit(host="git.sdk.example", decision="deny")]
    assert set(reasons) == {"credential_unchosen"}


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm on this machine")
def test_npm_reads_a_private_registry(said: dict[str, Any], services: Services) -> None:
    assert said["npm"]["out"].strip() == "1.2.3", (said["npm"], services.wrong)


@pytest.mark.skipif(not shutil.which("gh"), reason="no gh on this machine")
def test_gh_asks_its_api(said: dict[str, Any], services: Services) -> None:
    assert said["gh"]["out"] == '{"full_name": "o/r"}', (said["gh"], services.wrong)


@pytest.mark.skipif(not shutil.which("mvn"), reason="no Maven on this machine")
def test_maven_reads_a_private_repository(said: dict[str, Any], services: Services) -> None:
    assert said["mvn"]["code"] == 0, (said["mvn"], services.wrong)
    assert [asked.path for asked in services.asked if asked.host.startswith("maven")][:1] == [
        "/repo/g/parent/1/parent-1.pom"
    ]


def test_a_container_registry_never_has_to_challenge(said: dict[str, Any], services: Services) -> None:
    assert said["registry"] == [200, 200], services.wrong


@pytest.mark.skipif(not shutil.which("skopeo"), reason="no skopeo on this machine")
def test_a_container_client_pulls_an_image(said: dict[str, Any], services: Services) -> None:
    assert said["skopeo"]["code"] == 0, (said["skopeo"], services.wrong)
    assert {"manifests", "blobs"} <= {a.path.split("/")[4] for a in services.asked if a.path.count("/") > 3}


def test_a_parameter_of_the_query_and_a_cookie(said: dict[str, Any], services: Services) -> None:
    assert said["curl"] == ['{"place": "x"}', '{"panel": 1}'], services.wrong


def test_two_headers_replace_the_agents_own(said: dict[str, Any], services: Services) -> None:
    assert said["keys"] == {"both": True}, services.wrong


def test_nothing_real_came_into_the_cell_or_stands_in_the_log(
    said: dict[str, Any], services: Services, instance: Instance
) -> None:
    records = json.dumps(instance.audit())
    logs = "".join(file.read_text(errors="replace") for file in Path(instance.state).rglob("*.log"))
    for real in (*services.real.values(), *services.aws, *services.tokens):
        assert real not in said["all"]
        assert real not in records
        assert real not in logs
    assert said["environment"]["AWS_ACCESS_KEY_ID"].startswith("AKIA")
    assert said["environment"]["ANTHROPIC_API_KEY"].startswith("sk-ant-api03-")
    assert said["environment"]["OPENAI_API_KEY"].startswith("sk-proj-")


@contextlib.contextmanager
def asking(instance: Instance, url: str) -> Iterator[Callable[[], str]]:
    """An agent that asks for `url` each time, and tells the status."""
    source = (
        "import sys, urllib.request, urllib.error\n"
        "for line in sys.stdin:\n"
        "    try: print(urllib.request.urlopen(line.strip(), timeout=20).status, flush=True)\n"
        "    except urllib.error.HTTPError as error: print(error.code, flush=True)\n"
        "    except OSError: print('down', flush=True)\n"
    )
    with instance.running("agent", sys.executable, "-c", source) as process:

        def ask() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(url + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield ask


def test_after_a_401_the_next_request_has_a_new_token(
    instance: Instance, services: Services, said: dict[str, Any]
) -> None:
    services.tokens.clear()
    before = services.given
    with asking(instance, f"https://crm.sdk.example:{services.port}/api/contacts") as ask:
        assert ask() == "401"
        assert wait_for(lambda: ask() == "200", "a request with a new token")
    assert services.given == before + 1


FIFTY = """
import concurrent.futures, sys, urllib.error, urllib.request
def ask(_):
    try: return urllib.request.urlopen(sys.argv[1], timeout=60).status
    except urllib.error.HTTPError as error: return error.code
with concurrent.futures.ThreadPoolExecutor(50) as pool:
    for line in sys.stdin: print(*sorted(pool.map(ask, range(50))), flush=True)
"""


def test_fifty_401s_at_once_make_one_new_token(instance: Instance, services: Services) -> None:
    url = f"https://crm.sdk.example:{services.port}/login/contacts"
    with instance.running("agent", sys.executable, "-c", FIFTY, url) as process:

        def fifty() -> set[str]:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return set(process.stdout.readline().split())

        first = fifty()
        assert first == {"200"}, [r for r in instance.audit(host="crm.sdk.example") if r.get("decision") != "permit"][
            :3
        ]
        before = len(services.refreshes)
        services.tokens.clear()
        services.together = threading.Barrier(50)  # all of them are on their way with the token that has ended
        assert fifty() == {"401"}
        services.together = None
        assert wait_for(lambda: fifty() == {"200"}, "a new token for all of them")
    assert (len(services.refreshes), services.refresh_dead) == (before + 1, False)


def test_a_refresh_token_that_is_good_once_outlives_kills_of_the_decision_service(
    instance: Instance, services: Services
) -> None:
    with asking(instance, f"https://crm.sdk.example:{services.port}/login/contacts") as ask:
        before = len(services.refreshes)
        for turn in range(3):
            assert wait_for(lambda: ask() == "200", "a request with a token"), services.wrong
            assert (len(services.refreshes), services.refresh_dead) == (before + turn, False)
            killed = instance.pids()["decide"]
            os.kill(killed, signal.SIGKILL)
            wait_for(
                lambda killed=killed: instance.pids().get("decide") not in (None, killed), "another decision service"
            )
    kept = b"".join(file.read_bytes() for file in Path(instance.state).rglob("rotated/*"))
    assert kept
    assert not any(token.encode() in kept for token in services.refreshes)
