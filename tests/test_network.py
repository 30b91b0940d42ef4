"""Tests and notebooks run without network, and would fail if they used it."""

import socket
import subprocess
import sys
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import no_network
import pytest

ELSEWHERE = ("192.0.2.1", 80)  # an address reserved for documentation (RFC 5737)


def test_a_connection_to_another_host_fails():
    with pytest.raises(no_network.NetworkCut, match=r"192\.0\.2\.1"):
        socket.create_connection(ELSEWHERE, timeout=1)
    with socket.socket() as s, pytest.raises(no_network.NetworkCut):
        s.connect_ex(ELSEWHERE)
    with socket.socket(type=socket.SOCK_DGRAM) as s, pytest.raises(no_network.NetworkCut):
        s.sendto(b"hello", ELSEWHERE)


def test_a_download_fails():
    with pytest.raises(URLError, match="cut off"):
        urlopen("http://example.org/", timeout=1)


def test_this_machine_can_talk_to_itself():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


@pytest.mark.long
def test_a_notebook_run_by_nbval_is_cut_off_too(tmp_path):
    attempt = (
        "import socket\n"
        "try:\n"
        f"    socket.create_connection({ELSEWHERE}, timeout=1)\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)"
    )
    output = nbformat.v4.new_output("stream", name="stdout", text="NetworkCut\n")
    cell = nbformat.v4.new_code_cell(attempt, execution_count=1, outputs=[output])
    path = tmp_path / "attempt.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", str(path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout
