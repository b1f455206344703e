"""Azure's own clients, unmodified, against the running service; and the sample program of an application."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from azure.ai.vision.imageanalysis import ImageAnalysisClient
from azure.ai.vision.imageanalysis.aio import ImageAnalysisClient as AsyncImageAnalysisClient
from azure.ai.vision.imageanalysis.models import VisualFeatures
from azure.cognitiveservices.vision.computervision import ComputerVisionClient
from azure.cognitiveservices.vision.computervision.models import ComputerVisionErrorResponseException
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from msrest.authentication import CognitiveServicesCredentials
from picture_server import PictureServer
from serving import KEY, OTHER_KEY, Server, running

from vivo.captioner import Captioner
from vivo.world.glyphs import DETECTOR_CLASSES
from vivo.world.scenes import render, sample_scene

ALL = [VisualFeatures.CAPTION, VisualFeatures.DENSE_CAPTIONS, VisualFeatures.TAGS, VisualFeatures.OBJECTS]


@pytest.fixture(scope="module")
def server(tiny_captioner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("serve")
    with running(tiny_captioner, work, "--allow-url-network", "127.0.0.0/8", "--beam", "3") as found:
        yield found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with three objects that the detector knows."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    render(sample_scene(np.random.default_rng(0), DETECTOR_CLASSES, n_objects=3)).save(path)
    return path


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def corners(box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.x + box.w, box.y + box.h


def client_of(server: Server, key: str = KEY) -> ComputerVisionClient:
    return ComputerVisionClient(server.url, CognitiveServicesCredentials(key))


def test_describe_as_stream_and_by_address_is_what_the_captioner_says(
    server: Server, scene: Path, tiny_captioner: Path
) -> None:
    expected = Captioner.from_pretrained(tiny_captioner, "cpu")(scene, beam=3)
    client = client_of(server)
    with scene.open("rb") as stream:  # the client sends it chunked, without a length
        found = client.describe_image_in_stream(stream, max_candidates=3)
    texts = [one.text for one in found.captions]
    assert set(texts) == {one.text for one in expected} and len(texts) == len(set(texts))
    assert [one.confidence for one in found.captions] == sorted((c.confidence for c in found.captions), reverse=True)
    assert found.captions[0].confidence == pytest.approx(np.exp(expected[0].score), abs=1e-3)
    assert sorted(found.tags) == sorted(set(expected[0].tags))
    assert (found.metadata.width, found.metadata.height, found.metadata.format) == (224, 224, "Png")
    assert found.request_id and found.model_version[:2] == "20"
    with PictureServer({"/scene.jpg": scene.read_bytes()}) as pictures:  # a PNG, whatever its name says
        by_address = client.describe_image(f"{pictures.url}/scene.jpg", description_exclude=["Celebrities"])
    assert [one.text for one in by_address.captions] == texts[:1] and by_address.metadata.format == "Png"


def test_tags_objects_analyze_and_models(server: Server, scene: Path, tiny_captioner: Path) -> None:
    regions = Captioner.from_pretrained(tiny_captioner, "cpu")(scene)[0].regions
    rising = sorted(zip(regions.scores.tolist(), regions.labels, strict=True))
    expected = {label: score for score, label in rising if label}  # the surest region of each tag
    assert len(expected) >= 2
    client = client_of(server, OTHER_KEY)
    tags = client.tag_image_in_stream(scene.open("rb")).tags
    assert {tag.name: tag.confidence for tag in tags} == pytest.approx(expected, abs=1e-3)
    objects = client.detect_objects_in_stream(scene.open("rb")).objects
    boxes = {(n, *map(round, box.tolist())) for n, box in zip(regions.labels, regions.boxes, strict=True) if n}
    found = {(o.object_property, *corners(o.rectangle)) for o in objects}
    assert found <= boxes and {name for name, *_ in found} == {name for name, *_ in boxes}
    assert len(objects) == len(found)
    whole = client.analyze_image_in_stream(scene.open("rb"), visual_features=["Description", "Tags", "Objects"])
    assert len(whole.description.captions) == 1 and [tag.name for tag in whole.tags] == [tag.name for tag in tags]
    assert [one.as_dict() for one in whole.objects] == [one.as_dict() for one in objects]
    only = client.analyze_image_in_stream(scene.open("rb"), visual_features=["Tags"])
    assert only.description is None and only.objects is None and only.tags
    with PictureServer({"/scene": scene.read_bytes()}) as pictures:
        url = f"{pictures.url}/scene"
        assert client.tag_image(url).tags == tags and client.detect_objects(url).objects == objects
        assert client.analyze_image(url, visual_features=["Objects"]).objects == objects
        assert len(pictures.asked) == 3
    assert client.list_models().models_property == []


@pytest.mark.parametrize(
    ("options", "inner"),
    [
        ({"language": "es"}, "NotSupportedLanguage"),
        ({"max_candidates": 0}, "BadArgument"),
        ({"model_version": "yesterday"}, "BadArgument"),
    ],
)
def test_what_is_not_supported_is_said_in_azures_words(
    server: Server, scene: Path, options: dict[str, object], inner: str
) -> None:
    with pytest.raises(ComputerVisionErrorResponseException) as refused:
        client_of(server).describe_image_in_stream(scene.open("rb"), **options)
    error = refused.value
    assert error.response.status_code == 400 and error.error.error.innererror.code == inner
    with pytest.raises(ComputerVisionErrorResponseException) as refused:
        client_of(server).analyze_image_in_stream(scene.open("rb"), visual_features=["Faces"])
    assert refused.value.error.error.innererror.code == "NotSupportedVisualFeature"


def test_broken_pictures_and_wrong_keys(server: Server) -> None:
    import io

    with pytest.raises(ComputerVisionErrorResponseException) as refused:
        client_of(server).describe_image_in_stream(io.BytesIO(b"no picture" * 10_000))
    assert str(refused.value).startswith("(InvalidRequest)")
    assert refused.value.error.error.innererror.code == "InvalidImageFormat"
    with pytest.raises(ComputerVisionErrorResponseException) as refused:  # read to its end before it is refused
        client_of(server).describe_image_in_stream(io.BytesIO(b"\x89PNG" + b"0" * 5_000_000))
    assert refused.value.error.error.innererror.code == "InvalidImageSize"
    assert "4194304" in refused.value.error.error.message
    with pytest.raises(ComputerVisionErrorResponseException) as refused:
        client_of(server, KEY[:-1] + "0").describe_image_in_stream(io.BytesIO(b"x"))
    assert refused.value.response.status_code == 401 and "Access denied" in str(refused.value)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0", "v3.1"])
def test_older_interfaces_have_flat_errors_and_no_model_version(server: Server, scene: Path, version: str) -> None:
    """What clients 0.3 to 0.7 send and read; they cannot be installed beside the last one."""
    status, found = server.describe(scene.read_bytes(), f"/vision/{version}/describe?maxCandidates=2&language=en")
    assert status == 200 and set(found) == {"description", "requestId", "metadata"}
    assert len(found["description"]["captions"]) == 2
    status, error = server.describe(b"no picture", f"/vision/{version}/describe")
    assert status == 400 and set(error) == {"code", "message", "requestId"} and error["code"] == "InvalidImageFormat"
    status, error = server.describe(b"", f"/vision/{version}/ocr")
    assert status == 404
    status, error = server.describe(b"", f"/vision/{version}/describe", key="wrong")
    assert status == 401 and error["code"] == "401" and error["message"].startswith("Access denied")


def test_image_analysis(server: Server, scene: Path) -> None:
    older = client_of(server).analyze_image_in_stream(scene.open("rb"), visual_features=["Description", "Objects"])
    with ImageAnalysisClient(server.url + "/", AzureKeyCredential(KEY)) as client:
        found = client.analyze(scene.read_bytes(), visual_features=ALL, gender_neutral_caption=True, language="en")
        assert found.caption.text == older.description.captions[0].text
        assert found.metadata.width == found.metadata.height == 224 and found.model_version
        dense = found.dense_captions.list
        whole = dense[0].bounding_box
        assert dense[0].text == found.caption.text and 2 <= len(dense) <= 10
        assert (whole.x, whole.y, whole.width, whole.height) == (0, 0, 224, 224)
        assert len({(d.bounding_box.x, d.bounding_box.y) for d in dense}) > 1 and all(d.text for d in dense)
        assert [o.tags[0].name for o in found.objects.list] == [o.object_property for o in older.objects]
        assert {t.name for t in found.tags.list} == {o.tags[0].name for o in found.objects.list}
        assert found.people is None and found.read is None
        with PictureServer({"/a": scene.read_bytes()}) as pictures:
            only = client.analyze_from_url(f"{pictures.url}/a", visual_features=[VisualFeatures.CAPTION])
        assert only.caption.text == found.caption.text and only.tags is None
        for feature in (VisualFeatures.PEOPLE, VisualFeatures.READ, VisualFeatures.SMART_CROPS):
            with pytest.raises(HttpResponseError) as refused:
                client.analyze(scene.read_bytes(), visual_features=[feature])
            assert refused.value.status_code == 400
            assert refused.value.error.innererror["code"] == "NotSupportedVisualFeature"
    with ImageAnalysisClient(server.url, AzureKeyCredential("wrong")) as client:
        with pytest.raises(ClientAuthenticationError):
            client.analyze(scene.read_bytes(), visual_features=[VisualFeatures.CAPTION])


def test_image_analysis_async(server: Server, scene: Path) -> None:
    async def many() -> list[str]:
        async with AsyncImageAnalysisClient(server.url, AzureKeyCredential(KEY)) as client:
            asked = (client.analyze(scene.read_bytes(), visual_features=[VisualFeatures.CAPTION]) for _ in range(6))
            texts = [one.caption.text for one in await asyncio.gather(*asked)]
            found = await client.analyze(scene.read_bytes(), visual_features=ALL)
            assert found.dense_captions.list[0].text == found.caption.text == texts[0]
            assert {tag.name for tag in found.tags.list} == {one.tags[0].name for one in found.objects.list} != set()
            for feature in (VisualFeatures.PEOPLE, VisualFeatures.READ):
                with pytest.raises(HttpResponseError) as refused:
                    await client.analyze(scene.read_bytes(), visual_features=[feature])
                assert refused.value.error.innererror["code"] == "NotSupportedVisualFeature"
            return texts

    before = len(server.lines())
    texts = asyncio.run(many())
    assert len(texts) == 6 and len(set(texts)) == 1
    lines = [line for line in server.lines()[before:] if line["operation"] == "4.0 analyze" and line["status"] == 200]
    assert max(line["batch"] for line in lines) > 1  # the model read several at once


def test_the_sample_program(server: Server, scene: Path, tiny_captioner: Path, tmp_path: Path) -> None:
    """tests/azure_sample.py is the program as applications have it; nothing in it knows of this service."""
    sample = Path(__file__).parent / "azure_sample.py"

    def run(url: str, *what: str) -> str:
        command = [sys.executable, str(sample), url, KEY, *what]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    with scene.open("rb") as stream:
        expected = client_of(server).describe_image_in_stream(stream).captions[0].text
    with PictureServer({"/scene": scene.read_bytes()}) as pictures:
        assert run(server.url, f"{pictures.url}/scene") == f"Description of image: {expected}\n"
    with running(tiny_captioner, tmp_path, "--threshold", "1", "--beam", "1", keys=False) as unsure:
        assert run(unsure.url, str(scene)) == "Description of image: No description detected.\n"
        status, found = unsure.describe(scene.read_bytes())
        assert status == 200 and found["description"]["captions"] == [] and found["description"]["tags"]
        status, found = unsure.describe(
            scene.read_bytes(), "/computervision/imageanalysis:analyze?api-version=2024-02-01&features=caption,tags"
        )
        assert status == 200 and "captionResult" not in found and found["tagsResult"]["values"]
        assert json.loads(unsure.ask("/api/service")[2])["threshold"] == 1.0
        assert unsure.describe(b"", Host="localhost:9")[0] == 400  # without keys, by loopback names alone
        assert unsure.describe(b"", Host="localhost.:9")[0] == 400
        assert unsure.describe(b"", Host="rebind.example")[0] == 421
        for path in ("/metrics", "/api/service"):
            assert [unsure.ask(path, Host=host)[0] for host in ("rebind.example", "localhost:9")] == [421, 200]
