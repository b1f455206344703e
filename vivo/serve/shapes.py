"""The bodies of answers, for the OpenAPI description; what is sent is built in `v3.py`, `v4.py` and `page_api.py`."""

from pydantic import BaseModel


class InnerError(BaseModel):
    code: str
    message: str


class ErrorBody(BaseModel):
    code: str
    message: str
    innererror: InnerError | None = None


class NestedError(BaseModel):
    error: ErrorBody


class FlatError(BaseModel):
    code: str
    message: str
    requestId: str  # noqa: N815 - as the wire has it


class ImageUrl(BaseModel):
    url: str


class Metadata(BaseModel):
    width: int
    height: int
    format: str


class Caption(BaseModel):
    text: str
    confidence: float


class Tag(BaseModel):
    name: str
    confidence: float


class DescriptionOf(BaseModel):
    tags: list[str]
    captions: list[Caption]


class Rectangle(BaseModel):
    x: int
    y: int
    w: int
    h: int


class DetectedObject(BaseModel):
    rectangle: Rectangle
    object: str
    confidence: float


class V3Answer(BaseModel):
    requestId: str  # noqa: N815
    metadata: Metadata
    modelVersion: str | None = None  # noqa: N815


class Described(V3Answer):
    description: DescriptionOf


class Tagged(V3Answer):
    tags: list[Tag]


class Detected(V3Answer):
    objects: list[DetectedObject]


class Analyzed(V3Answer):
    description: DescriptionOf | None = None
    tags: list[Tag] | None = None
    objects: list[DetectedObject] | None = None


class DomainModel(BaseModel):
    name: str
    categories: list[str]


class Models(BaseModel):
    models: list[DomainModel]


class Size(BaseModel):
    width: int
    height: int


class BoxedCaption(Caption):
    boundingBox: Rectangle  # noqa: N815


class BoxedTags(BaseModel):
    boundingBox: Rectangle  # noqa: N815
    tags: list[Tag]


class CaptionValues(BaseModel):
    values: list[BoxedCaption]


class TagValues(BaseModel):
    values: list[Tag]


class ObjectValues(BaseModel):
    values: list[BoxedTags]


class ImageAnalysis(BaseModel):
    modelVersion: str  # noqa: N815
    metadata: Size
    captionResult: Caption | None = None  # noqa: N815
    denseCaptionsResult: CaptionValues | None = None  # noqa: N815
    tagsResult: TagValues | None = None  # noqa: N815
    objectsResult: ObjectValues | None = None  # noqa: N815


class PageModel(BaseModel):
    name: str
    version: str
    calibrated: bool


class ServiceFacts(BaseModel):
    model: PageModel
    keyNeeded: bool  # noqa: N815
    urls: bool
    threshold: float
    maxBytes: int  # noqa: N815
    formats: list[str]


class PageRegion(BaseModel):
    box: list[float]
    tag: str
    score: float


class PageWord(BaseModel):
    text: str
    start: int
    end: int
    probability: float
    regions: list[float]


class PageDescription(BaseModel):
    requestId: str  # noqa: N815
    model: PageModel
    picture: Metadata
    threshold: float
    caption: Caption | None
    alternatives: list[Caption]
    tags: list[Tag]
    regions: list[PageRegion]
    words: list[PageWord]


class Health(BaseModel):
    status: str
