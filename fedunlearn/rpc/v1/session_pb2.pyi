from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    DTYPE_FLOAT32: _ClassVar[Dtype]
    DTYPE_FLOAT64: _ClassVar[Dtype]
    DTYPE_BFLOAT16: _ClassVar[Dtype]

class Part(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PART_UNSPECIFIED: _ClassVar[Part]
    PART_RETAIN: _ClassVar[Part]
    PART_FORGET: _ClassVar[Part]

class Curvature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CURVATURE_UNSPECIFIED: _ClassVar[Curvature]
    CURVATURE_GGN: _ClassVar[Curvature]
    CURVATURE_HESSIAN: _ClassVar[Curvature]

class HeadLoss(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_LOSS_UNSPECIFIED: _ClassVar[HeadLoss]
    HEAD_LOSS_SQUARED: _ClassVar[HeadLoss]
    HEAD_LOSS_CROSS_ENTROPY: _ClassVar[HeadLoss]
    HEAD_LOSS_ONE_VS_REST: _ClassVar[HeadLoss]
DTYPE_UNSPECIFIED: Dtype
DTYPE_FLOAT32: Dtype
DTYPE_FLOAT64: Dtype
DTYPE_BFLOAT16: Dtype
PART_UNSPECIFIED: Part
PART_RETAIN: Part
PART_FORGET: Part
CURVATURE_UNSPECIFIED: Curvature
CURVATURE_GGN: Curvature
CURVATURE_HESSIAN: Curvature
HEAD_LOSS_UNSPECIFIED: HeadLoss
HEAD_LOSS_SQUARED: HeadLoss
HEAD_LOSS_CROSS_ENTROPY: HeadLoss
HEAD_LOSS_ONE_VS_REST: HeadLoss

class AttendRequest(_message.Message):
    __slots__ = ("answer", "chunk", "failure")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    answer: AnswerHeader
    chunk: bytes
    failure: Failure
    def __init__(self, answer: _Optional[_Union[AnswerHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class AttendResponse(_message.Message):
    __slots__ = ("question", "chunk")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    question: QuestionHeader
    chunk: bytes
    def __init__(self, question: _Optional[_Union[QuestionHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class TensorHeader(_message.Message):
    __slots__ = ("name", "shape", "dtype", "payload")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: Dtype
    payload: Dtype
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[Dtype, str]] = ..., payload: _Optional[_Union[Dtype, str]] = ...) -> None: ...

class QuestionHeader(_message.Message):
    __slots__ = ("number", "question", "tensors", "deadline_s")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    question: Question
    tensors: _containers.RepeatedCompositeFieldContainer[TensorHeader]
    deadline_s: float
    def __init__(self, number: _Optional[int] = ..., question: _Optional[_Union[Question, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[TensorHeader, _Mapping]]] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class AnswerHeader(_message.Message):
    __slots__ = ("number", "answer", "tensors")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    number: int
    answer: Answer
    tensors: _containers.RepeatedCompositeFieldContainer[TensorHeader]
    def __init__(self, number: _Optional[int] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[TensorHeader, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("number", "kind", "message")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: str
    message: str
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ForgetSet(_message.Message):
    __slots__ = ("nodes", "samples", "labels", "records", "after")
    class Nodes(_message.Message):
        __slots__ = ("nodes",)
        NODES_FIELD_NUMBER: _ClassVar[int]
        nodes: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, nodes: _Optional[_Iterable[int]] = ...) -> None: ...
    class Samples(_message.Message):
        __slots__ = ("fraction", "seed", "on_nodes")
        FRACTION_FIELD_NUMBER: _ClassVar[int]
        SEED_FIELD_NUMBER: _ClassVar[int]
        ON_NODES_FIELD_NUMBER: _ClassVar[int]
        fraction: float
        seed: int
        on_nodes: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, fraction: _Optional[float] = ..., seed: _Optional[int] = ..., on_nodes: _Optional[_Iterable[int]] = ...) -> None: ...
    class Labels(_message.Message):
        __slots__ = ("labels", "on_nodes")
        LABELS_FIELD_NUMBER: _ClassVar[int]
        ON_NODES_FIELD_NUMBER: _ClassVar[int]
        labels: _containers.RepeatedScalarFieldContainer[int]
        on_nodes: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, labels: _Optional[_Iterable[int]] = ..., on_nodes: _Optional[_Iterable[int]] = ...) -> None: ...
    class Records(_message.Message):
        __slots__ = ("of_nodes",)
        class OfNode(_message.Message):
            __slots__ = ("node", "places")
            NODE_FIELD_NUMBER: _ClassVar[int]
            PLACES_FIELD_NUMBER: _ClassVar[int]
            node: int
            places: _containers.RepeatedScalarFieldContainer[int]
            def __init__(self, node: _Optional[int] = ..., places: _Optional[_Iterable[int]] = ...) -> None: ...
        OF_NODES_FIELD_NUMBER: _ClassVar[int]
        of_nodes: _containers.RepeatedCompositeFieldContainer[ForgetSet.Records.OfNode]
        def __init__(self, of_nodes: _Optional[_Iterable[_Union[ForgetSet.Records.OfNode, _Mapping]]] = ...) -> None: ...
    NODES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    nodes: ForgetSet.Nodes
    samples: ForgetSet.Samples
    labels: ForgetSet.Labels
    records: ForgetSet.Records
    after: _containers.RepeatedCompositeFieldContainer[ForgetSet]
    def __init__(self, nodes: _Optional[_Union[ForgetSet.Nodes, _Mapping]] = ..., samples: _Optional[_Union[ForgetSet.Samples, _Mapping]] = ..., labels: _Optional[_Union[ForgetSet.Labels, _Mapping]] = ..., records: _Optional[_Union[ForgetSet.Records, _Mapping]] = ..., after: _Optional[_Iterable[_Union[ForgetSet, _Mapping]]] = ...) -> None: ...

class GradientQuestion(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProductsQuestion(_message.Message):
    __slots__ = ("curvature",)
    CURVATURE_FIELD_NUMBER: _ClassVar[int]
    curvature: Curvature
    def __init__(self, curvature: _Optional[_Union[Curvature, str]] = ...) -> None: ...

class LossesQuestion(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GroupGradientsQuestion(_message.Message):
    __slots__ = ("by_label", "signs")
    BY_LABEL_FIELD_NUMBER: _ClassVar[int]
    SIGNS_FIELD_NUMBER: _ClassVar[int]
    by_label: bool
    signs: Signs
    def __init__(self, by_label: _Optional[bool] = ..., signs: _Optional[_Union[Signs, _Mapping]] = ...) -> None: ...

class Signs(_message.Message):
    __slots__ = ("columns", "seed")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    columns: int
    seed: int
    def __init__(self, columns: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class SummariesQuestion(_message.Message):
    __slots__ = ("curvature", "by_label")
    CURVATURE_FIELD_NUMBER: _ClassVar[int]
    BY_LABEL_FIELD_NUMBER: _ClassVar[int]
    curvature: Curvature
    by_label: bool
    def __init__(self, curvature: _Optional[_Union[Curvature, str]] = ..., by_label: _Optional[bool] = ...) -> None: ...

class EvaluationsQuestion(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatisticsQuestion(_message.Message):
    __slots__ = ("batch_size", "seed")
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    batch_size: int
    seed: int
    def __init__(self, batch_size: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("loss", "outputs", "bias", "unit")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    loss: HeadLoss
    outputs: int
    bias: bool
    unit: bool
    def __init__(self, loss: _Optional[_Union[HeadLoss, str]] = ..., outputs: _Optional[int] = ..., bias: _Optional[bool] = ..., unit: _Optional[bool] = ...) -> None: ...

class HeadMomentsQuestion(_message.Message):
    __slots__ = ("head", "by_label")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    BY_LABEL_FIELD_NUMBER: _ClassVar[int]
    head: Head
    by_label: bool
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., by_label: _Optional[bool] = ...) -> None: ...

class HeadDerivativesQuestion(_message.Message):
    __slots__ = ("head", "without_curvature")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CURVATURE_FIELD_NUMBER: _ClassVar[int]
    head: Head
    without_curvature: bool
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., without_curvature: _Optional[bool] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("share", "seed")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    share: float
    seed: int
    def __init__(self, share: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("job", "round", "model_sha256", "vectors_sha256", "forget", "parts", "gradient", "products", "losses", "group_gradients", "summaries", "evaluations", "statistics", "head_moments", "head_derivatives", "sample", "state_sha256", "batch_size")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    VECTORS_SHA256_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    GROUP_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    HEAD_MOMENTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DERIVATIVES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    STATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    job: str
    round: int
    model_sha256: bytes
    vectors_sha256: bytes
    forget: ForgetSet
    parts: _containers.RepeatedScalarFieldContainer[Part]
    gradient: GradientQuestion
    products: ProductsQuestion
    losses: LossesQuestion
    group_gradients: GroupGradientsQuestion
    summaries: SummariesQuestion
    evaluations: EvaluationsQuestion
    statistics: StatisticsQuestion
    head_moments: HeadMomentsQuestion
    head_derivatives: HeadDerivativesQuestion
    sample: Sample
    state_sha256: bytes
    batch_size: int
    def __init__(self, job: _Optional[str] = ..., round: _Optional[int] = ..., model_sha256: _Optional[bytes] = ..., vectors_sha256: _Optional[bytes] = ..., forget: _Optional[_Union[ForgetSet, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Part, str]]] = ..., gradient: _Optional[_Union[GradientQuestion, _Mapping]] = ..., products: _Optional[_Union[ProductsQuestion, _Mapping]] = ..., losses: _Optional[_Union[LossesQuestion, _Mapping]] = ..., group_gradients: _Optional[_Union[GroupGradientsQuestion, _Mapping]] = ..., summaries: _Optional[_Union[SummariesQuestion, _Mapping]] = ..., evaluations: _Optional[_Union[EvaluationsQuestion, _Mapping]] = ..., statistics: _Optional[_Union[StatisticsQuestion, _Mapping]] = ..., head_moments: _Optional[_Union[HeadMomentsQuestion, _Mapping]] = ..., head_derivatives: _Optional[_Union[HeadDerivativesQuestion, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., state_sha256: _Optional[bytes] = ..., batch_size: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("job", "round", "model_sha256", "vectors_sha256", "counts", "labels")
    class Count(_message.Message):
        __slots__ = ("part", "examples")
        PART_FIELD_NUMBER: _ClassVar[int]
        EXAMPLES_FIELD_NUMBER: _ClassVar[int]
        part: Part
        examples: int
        def __init__(self, part: _Optional[_Union[Part, str]] = ..., examples: _Optional[int] = ...) -> None: ...
    class Labels(_message.Message):
        __slots__ = ("part", "labels")
        PART_FIELD_NUMBER: _ClassVar[int]
        LABELS_FIELD_NUMBER: _ClassVar[int]
        part: Part
        labels: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, part: _Optional[_Union[Part, str]] = ..., labels: _Optional[_Iterable[int]] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    VECTORS_SHA256_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    job: str
    round: int
    model_sha256: bytes
    vectors_sha256: bytes
    counts: _containers.RepeatedCompositeFieldContainer[Answer.Count]
    labels: _containers.RepeatedCompositeFieldContainer[Answer.Labels]
    def __init__(self, job: _Optional[str] = ..., round: _Optional[int] = ..., model_sha256: _Optional[bytes] = ..., vectors_sha256: _Optional[bytes] = ..., counts: _Optional[_Iterable[_Union[Answer.Count, _Mapping]]] = ..., labels: _Optional[_Iterable[_Union[Answer.Labels, _Mapping]]] = ...) -> None: ...
