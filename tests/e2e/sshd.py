"""An OpenSSH server of a test's own on loopback, with its own keys and configuration.

It changes nothing of the machine's, except that root's sshd wants the folder /run/sshd to be there.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

_PLACES = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
_ATTEMPTS = 5

CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
PrintLastLog no
SetEnv {env}
"""


def missing() -> list[str]:
    """The programs that are needed and not there."""
    return [name for name in ("sshd", "ssh", "ssh-keygen") if shutil.which(name, path=_PLACES) is None]


class Server:
    """A server that is up; whoever logs in gets the environment that it was given."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            folder: where its keys and configuration are kept.
            env: variables of everybody who logs in.
        """
        self._folder = folder
        folder.mkdir()
        for key in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", str(folder / key)],
                check=True,
            )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._env = " ".join(f'"{name}={value}"' for name, value in env.items() if name != "TERM")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        said = ""
        for _ in range(_ATTEMPTS):
            # Somebody may take the port before sshd does.
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self._port = probe.getsockname()[1]
            config = self._folder / "config"
            config.write_text(CONFIG.format(port=self._port, folder=self._folder, env=self._env), "utf-8")
            process = subprocess.Popen(
                # By its whole path: it starts itself again for each login.
                [str(shutil.which("sshd", path=_PLACES)), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stderr is not None
            for line in process.stderr:
                said += line
                if "listening on" in line:
                    public = (self._folder / "host.pub").read_text("utf-8")
                    (self._folder / "known").write_text(f"[127.0.0.1]:{self._port} {public}", "utf-8")
                    return process
            process.wait()
        raise AssertionError(f"sshd does not start: {said}")

    def login(self, *command: str) -> list[str]:
        """The command that logs in with a terminal, to a shell or to a program."""
        name = pwd.getpwuid(os.getuid()).pw_name
        options = {
            "IdentityFile": self._folder / "user", "IdentitiesOnly": "yes", "BatchMode": "yes",
            "UserKnownHostsFile": self._folder / "known", "StrictHostKeyChecking": "yes", "LogLevel": "ERROR",
        }  # fmt: skip
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return [
            "ssh",
            "-F",
            "none",
            "-tt",
            "-p",
            str(self._port),
            *given,
            f"{name}@127.0.0.1",
            shlex.join(command),
        ]

    def close(self) -> None:
        """End it; who is still logged in stays so."""
        self._process.terminate()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
