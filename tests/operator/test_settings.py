"""Settings come from the environment; what is wrong with them is said all at once, by the name of the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkdam_operator.settings import Settings, SettingsError, reference, variables


def test_without_any_variable_the_defaults_hold() -> None:
    settings = Settings.from_environment({"PATH": "/bin"})
    assert settings == Settings()
    assert settings.namespaces == ()
    assert (settings.writes_per_second, settings.write_burst) == (100.0, 200)
    assert settings.resync_interval_s == 300.0


def test_variables_set_what_they_name() -> None:
    settings = Settings.from_environment(
        {
            "CHECKDAM_OPERATOR_NAMESPACES": "streams, more-streams",
            "CHECKDAM_OPERATOR_WORKERS": "4",
            "CHECKDAM_OPERATOR_WRITES_PER_SECOND": "12.5",
            "CHECKDAM_OPERATOR_RESYNC_INTERVAL": "1m30s",
            "CHECKDAM_OPERATOR_UNREACHABLE_TOLERATION": "90s",
            "CHECKDAM_OPERATOR_LOG_FORMAT": "text",
        }
    )
    assert settings.namespaces == ("streams", "more-streams")
    assert (settings.workers, settings.writes_per_second) == (4, 12.5)
    assert (settings.resync_interval_s, settings.unreachable_toleration_s) == (90.0, 90)
    assert settings.log_format == "text"


def test_what_the_command_line_says_takes_precedence() -> None:
    settings = Settings.from_environment({"CHECKDAM_OPERATOR_WORKERS": "4"}, workers=7, log_level=None)
    assert (settings.workers, settings.log_level) == (7, "INFO")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(
            {
                "CHECKDAM_OPERATOR_NAMESPACES": "a,B_",
                "CHECKDAM_OPERATOR_WORKER": "1",
                "CHECKDAM_OPERATOR_WORKERS": "0",
                "CHECKDAM_OPERATOR_RESYNC_INTERVAL": "5",
                "CHECKDAM_OPERATOR_UNREACHABLE_TOLERATION": "0s",
                "CHECKDAM_OPERATOR_LOG_FORMAT": "xml",
                "CHECKDAM_OPERATOR_HTTP_PORT": "http",
            }
        )
    assert str(refused.value).splitlines() == [
        "the operator's settings are not valid:",
        "  - `CHECKDAM_OPERATOR_WORKER` is no setting; did you mean `CHECKDAM_OPERATOR_WORKERS`?",
        "  - `CHECKDAM_OPERATOR_HTTP_PORT` must be an integer (got 'http')",
        "  - `CHECKDAM_OPERATOR_NAMESPACES` must be names of namespaces, separated by commas (got 'B_')",
        "  - `CHECKDAM_OPERATOR_UNREACHABLE_TOLERATION` must be longer than 0s (got '0s')",
        "  - `CHECKDAM_OPERATOR_WORKERS` must be greater than or equal to 1 (got 0)",
        "  - `CHECKDAM_OPERATOR_RESYNC_INTERVAL` must be a duration such as 500ms, 10s, 5m or 1h (got '5')",
        "  - `CHECKDAM_OPERATOR_LOG_FORMAT` must be one of 'json', 'text' (got 'xml')",
    ]


def test_what_kubernetes_puts_into_the_environment_for_a_service_of_that_name_is_no_setting() -> None:
    links = {
        "CHECKDAM_OPERATOR_SERVICE_HOST": "10.0.0.1",
        "CHECKDAM_OPERATOR_SERVICE_PORT_METRICS": "8080",
        "CHECKDAM_OPERATOR_PORT": "tcp://10.0.0.1:8080",
        "CHECKDAM_OPERATOR_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.from_environment(links) == Settings()


def test_the_lease_is_in_the_namespace_of_the_operator_s_pod(tmp_path: Path) -> None:
    own = tmp_path / "namespace"
    assert Settings().namespace_of_lease(own) == "default"
    own.write_text("checkdam-system\n")
    assert Settings().namespace_of_lease(own) == "checkdam-system"
    assert Settings(lease_namespace="other").namespace_of_lease(own) == "other"


def test_no_two_processes_have_the_same_identity() -> None:
    settings = Settings(identity="operator-1")
    one, two = settings.process_identity(), settings.process_identity()
    assert one != two
    assert one.startswith("operator-1_")


def test_every_setting_is_on_the_reference_page_with_its_reason() -> None:
    rows = reference().splitlines()[2:]
    assert len(rows) == len(variables())
    for row, variable in zip(rows, variables(), strict=True):
        assert row.startswith(f"| `{variable}` | ")
        assert len(row.split(" | ")[2]) > 40
