"""Whatever fits the description at /openapi.json, or just does not: no answer is a bug, and each is
as described.
"""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from serving import serving, small_model, write_sound

pytest.importorskip("schemathesis")

import schemathesis
from dualasr_serve.app import Settings, create_app
from dualasr_serve.scheduler import Limits, Scheduler
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

FORM = "Body_transcriptions_v1_audio_transcriptions_post"


@pytest.fixture(scope="module")
def schema(tiny_folder, make_secondary, tmp_path_factory):
    scheduler = Scheduler(small_model(tiny_folder, make_secondary), Limits(audio_s=30))
    app = create_app(
        scheduler,
        lambda: scheduler.model,
        tmp_path_factory.mktemp("uploads"),
        Settings(key="key", page=False),
    )
    with serving(app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    scheduler.close()


def test_all_is_described(schema):
    paths = schema.raw_schema["paths"]
    assert set(paths) == {
        "/v1/models",
        "/v1/models/{name}",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/health",
        "/metrics",
        "/inference",
        "/admin/packs/reload",
    }
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["description"] and "422" not in operation["responses"], path
    spoken = paths["/v1/audio/transcriptions"]["post"]["responses"]
    assert set(spoken["200"]["content"]) == {
        "application/json",
        "text/plain",
        "application/x-subrip",
        "text/vtt",
        "text/event-stream",
    }
    assert {"400", "401", "404", "413", "429"} <= set(spoken)
    form = schema.raw_schema["components"]["schemas"][FORM]["properties"]
    assert form.pop("response_format") and all(field["description"] for field in form.values())


def each(operation, mode: str, examples: int, check) -> None:
    """Check so many cases of an operation, the same ones every time."""

    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def one_after_another(case):
        check(case)

    one_after_another()


@pytest.mark.parametrize("key", ["key", "wrong"])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_nothing_that_may_be_asked_is_a_bug(schema, key, mode):
    def check(case):
        case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {key}"})

    for operation in schema.get_all_operations():
        if mode == "positive" or operation.ok().body:  # where there is no field none can be wrong
            each(operation.ok(), mode, 12, check)


def test_what_is_asked_of_a_sound_is_answered_or_refused_as_described(schema, tmp_path):
    sound, choice, statuses = (
        write_sound(tmp_path / "a.wav", 0.4).read_bytes(),
        random.Random(0),
        Counter(),
    )

    def check(case):
        case.body |= {"file": sound, "model": choice.choice(["auto", "north", "south"])}
        fields = schema.raw_schema["components"]["schemas"][FORM]["properties"]
        refused = {"language", "languages[]", "include[]", "chunking_strategy", "vad_filter"}
        for field in sorted(refused | set(case.body) - set(fields)):  # an unknown field gives 400
            if choice.random() < 0.8:
                case.body.pop(field, None)
        if case.body.get("response_format") != "verbose_json" and choice.random() < 0.8:
            case.body.pop("timestamp_granularities[]", None)
        response = case.call_and_validate(checks=CHECKS, headers={"Authorization": "Bearer key"})
        statuses[response.status_code] += 1

    each(schema["/v1/audio/transcriptions"]["POST"], "positive", 30, check)
    assert set(statuses) <= {200, 400} and statuses[200] >= 3
