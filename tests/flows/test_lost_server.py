"""What `usam run` says when its server is gone."""

import httpx
import pytest

from flows import annotate, cli


def test_a_server_that_is_gone_is_a_sentence_and_no_traceback(tiny_project, monkeypatch, capsys):
    def refused(_, **state):
        raise httpx.ConnectError("All connection attempts failed")

    api = "http://127.0.0.1:9/api"
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setattr(annotate, "annotate_dataset", refused)
    monkeypatch.setattr(cli, "_server", lambda: False)  # it was there at the start
    monkeypatch.setattr(cli.sys, "argv", ["usam", "run", str(tiny_project)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"usam: the Prefect server {api} does not answer any more (ConnectError")
    assert "usam up" in said
    assert "Traceback" not in said
