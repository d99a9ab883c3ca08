"""Settings of the fine-tuning methods, one model for each method with settings; and those of preferences."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.endpoints import EndpointSpec
from finetune_api.tables.preferences import PREFERENCES, PreferenceLoss
from finetune_api.vocabulary import Label


class LoraInitialization(StrEnum):
    """What the weights of a LoRA adapter are before the first step. The model is the base model in any case."""

    DEFAULT = "Default"
    PISSA = "PiSSA"
    OLORA = "OLoRA"
    EVA = "EVA"
    LOFTQ = "LoftQ"

    @property
    def of_weights(self) -> bool:
        """Whether the adapter starts with a part of the base weights, so that its update is not zero at first."""
        return self in (LoraInitialization.PISSA, LoraInitialization.OLORA, LoraInitialization.LOFTQ)


_OF_WEIGHTS = tuple(str(member) for member in LoraInitialization if member.of_weights)

Rank = Annotated[int, Field(ge=1, le=1024)]

_Names = Annotated[tuple[Label, ...], Field(max_length=64)]

_NO_PARAMETERS = "!has(self.targetParameters) || self.targetParameters.size() == 0 || "


class LoraSpec(ApiModel):
    """Low-rank adapters (Hu et al. 2021)."""

    rank: Rank = Field(default=16, description="Rank of the update.")
    alpha: int = Field(
        default=32, ge=1, le=4096, description="Scale of the update, which is multiplied by alpha / rank."
    )
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the input of the adapter.")
    target_modules: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)] = Field(
        default=("all-linear",),
        description="Names of the modules to adapt, or all-linear for every linear layer except the head, the output "
        "layer and the routers of a mixture of experts. Experts that a model stores as parameters are adapted only if "
        "targetParameters names them. The model card names the share of the weights that is. Where embeddings and "
        "output layer share their weights, an adapter of either changes only one, and merging it would change both.",
    )
    target_parameters: _Names = Field(
        default=(),
        description="Names, or ends of names, of parameters with a matrix for each expert, which are adapted as well: "
        "often experts.gate_up_proj and experts.down_proj (see models.md). Each expert gets an update of the rank. "
        "Needs dropout 0. A step computes the weights of all experts anew, which costs time and memory for a copy of "
        "those of a layer, or with training.activationCheckpointing false of all layers.",
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023).")
    use_dora: bool = Field(
        default=False,
        description="DoRA: also train the norm of each output of a module, apart from its direction (Liu et al. 2024). "
        "Slower; often better with a small rank.",
    )
    initialization: LoraInitialization = Field(
        default=LoraInitialization.DEFAULT,
        description="The adapter before the first step. With Default its update is zero. PiSSA: the largest singular "
        "directions of each weight (Meng et al. 2024). OLoRA: those of its QR decomposition (Büyükakyüz 2024). EVA: "
        "the largest directions of the inputs that each module gets from the training data (Paischer et al. 2024). "
        "LoftQ: what NF4 would lose of each weight (Li et al. 2023). The published adapter is always one for the "
        "untouched base model; that of PiSSA, OLoRA and LoftQ has twice the rank.",
    )
    rank_pattern: Annotated[dict[str, Rank], Field(max_length=64)] = Field(
        default={},
        description="Another rank for some modules: names of modules, ends of names, or regular expressions for them, "
        "as in PEFT. Each must fit a module that is adapted, and no module more than one.",
    )
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1,
        le=1000,
        description="LoRA+: the learning rate of the matrix B, as a multiple of that of A (Hayou et al. 2024); 16 is "
        "usual, with a smaller training.learningRate.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.targetModules) || !('all-linear' in self.targetModules) || self.targetModules.size() == 1",
            message="all-linear cannot be combined with other names in targetModules",
            field="targetModules",
            holds=lambda lora: "all-linear" not in lora.target_modules or len(lora.target_modules) == 1,
        ),
        Rule(
            cel=f"!has(self.useDora) || !self.useDora || !has(self.initialization) || !(self.initialization in "
            f"{list(_OF_WEIGHTS)})",
            message=f"useDora cannot be combined with the initialization {', '.join(_OF_WEIGHTS)}, whose result could "
            "not be published as an adapter for the untouched base model",
            field="useDora",
            holds=lambda lora: not (lora.use_dora and lora.initialization.of_weights),
        ),
        Rule(
            cel="!has(self.rankPattern) || self.rankPattern.size() == 0 || !has(self.initialization) || "
            f"self.initialization != '{LoraInitialization.EVA}'",
            message="rankPattern cannot be combined with the initialization EVA, which finds as many directions for "
            "all modules with the same input",
            field="rankPattern",
            holds=lambda lora: not (lora.rank_pattern and lora.initialization is LoraInitialization.EVA),
        ),
        Rule(
            cel="!has(self.useRslora) || !self.useRslora || !has(self.rankPattern) || self.rankPattern.size() == 0 || "
            f"!has(self.initialization) || !(self.initialization in {list(_OF_WEIGHTS)})",
            message=f"useRslora and rankPattern cannot be combined with the initialization {', '.join(_OF_WEIGHTS)}: "
            "the published adapter has twice the rank, and one alpha cannot scale all of its ranks as before",
            field="rankPattern",
            holds=lambda lora: not (lora.use_rslora and lora.rank_pattern and lora.initialization.of_weights),
        ),
        Rule(
            cel=f"{_NO_PARAMETERS}has(self.dropout) && self.dropout == 0.0",
            message="targetParameters requires dropout: 0, because the inputs of single experts cannot be dropped out",
            field="dropout",
            holds=lambda lora: not lora.target_parameters or lora.dropout == 0,
        ),
        Rule(
            cel=f"{_NO_PARAMETERS}!has(self.useDora) || !self.useDora",
            message="useDora cannot be combined with targetParameters: PEFT has no DoRA for experts",
            field="useDora",
            holds=lambda lora: not (lora.target_parameters and lora.use_dora),
        ),
        Rule(
            cel=f"{_NO_PARAMETERS}!has(self.initialization) || self.initialization == '{LoraInitialization.DEFAULT}'",
            message=f"targetParameters requires initialization {LoraInitialization.DEFAULT}: the others are for layers",
            field="initialization",
            holds=lambda lora: not lora.target_parameters or lora.initialization is LoraInitialization.DEFAULT,
        ),
    )


class Ia3Spec(ApiModel):
    """Learned factors of activations (Liu et al. 2022)."""

    target_modules: Annotated[_Names, Field(min_length=1)] | None = Field(
        default=None,
        description="Names of the modules whose output is scaled. Default: those of PEFT for the type of the model, "
        "usually the layers of keys and values and a layer of the feed-forward block.",
    )
    feedforward_modules: _Names | None = Field(
        default=None,
        description="Those of targetModules that are scaled at their input instead, usually the second layer of the "
        "feed-forward block. Default: those of PEFT for the type of the model.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.targetModules) == has(self.feedforwardModules)",
            message="set targetModules and feedforwardModules, or neither; feedforwardModules may be an empty list",
            field="feedforwardModules",
            holds=lambda ia3: (ia3.target_modules is None) == (ia3.feedforward_modules is None),
        ),
        Rule(
            cel="!has(self.targetModules) || !has(self.feedforwardModules) || "
            "self.feedforwardModules.all(name, name in self.targetModules)",
            message="feedforwardModules must be among targetModules",
            field="feedforwardModules",
            holds=lambda ia3: set(ia3.feedforward_modules or ()) <= set(ia3.target_modules or ()),
        ),
    )


class VirtualTokensSpec(ApiModel):
    """Settings of the methods that train virtual tokens."""

    virtual_tokens: int = Field(
        default=20,
        ge=1,
        le=1024,
        description="Learned tokens before each text. They take positions of the model, which maxSequenceLength leaves "
        "out.",
    )


class PromptTuningSpec(VirtualTokensSpec):
    """Learned embeddings before each text (Lester et al. 2021)."""

    init_text: Annotated[str, Field(min_length=1, max_length=8192)] | None = Field(
        default=None,
        description="A text, such as an instruction, whose embeddings the virtual tokens start from. It is cut or "
        "repeated to their number. Default: the embeddings of random tokens.",
    )


class PrefixTuningSpec(VirtualTokensSpec):
    """Learned keys and values before each text, in every layer (Li and Liang 2021)."""


class PTuningSpec(VirtualTokensSpec):
    """Learned embeddings before each text, which a small network computes in training (Liu et al. 2021)."""


LONGEST_CANDIDATE = 4096
"""Characters."""
Candidate = Annotated[str, Field(min_length=1, max_length=LONGEST_CANDIDATE)]


class PromptSearchSpec(ApiModel):
    """What to choose a prompt from, and how much the search may cost."""

    candidates: Annotated[tuple[Candidate, ...], Field(max_length=32)] = Field(
        default=(),
        description="Instructions to compare: what the user says to the model, with the columns of the task as "
        "placeholders: {text} for TextClassification and Summarization, {question} and {context} for "
        "QuestionAnswering, {source} for Translation, {prompt} for CodeGeneration and "
        "InstructionTuning, where it is the message of the "
        "user.",
    )
    propose: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="Instructions that a model writes, from examples of the training split: the model itself, or that "
        "of proposer. One with another placeholder than those of the task is dropped, and counted in the report.",
    )
    proposer: EndpointSpec | None = Field(
        default=None,
        description="A model behind an endpoint that writes the instructions of propose, such as a larger one. It sees "
        "training examples, and is asked for nothing else.",
    )
    shots: Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1, max_length=16)] = Field(
        default=(0, 2, 4),
        description="Sizes of the sets of examples that precede a text; 0 means no examples. They come from the "
        "training split, and none is nearly a row of validation or test. Those of a classifier are balanced.",
    )
    trials: int = Field(
        default=24,
        ge=1,
        le=10000,
        description="Most combinations of an instruction with a set of examples in an order to score. None is scored "
        "twice, so that a small search ends earlier.",
    )
    examples: int = Field(
        default=200,
        ge=1,
        le=1000000,
        description="Examples of the validation split that each combination is scored on, a random sample if there "
        "are more.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=9007199254740991,
        description="Most tokens that the search reads and writes in all. It ends before the combination that could "
        "exceed them. Default: no limit.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.candidates) && self.candidates.size() > 0 || has(self.propose)",
            message="set candidates, the instructions to compare, or propose, how many a model writes",
            field="candidates",
            holds=lambda search: bool(search.candidates) or search.propose is not None,
        ),
        Rule(
            cel="!has(self.proposer) || has(self.propose)",
            message="proposer requires propose, how many instructions it writes",
            field="proposer",
            holds=lambda search: search.proposer is None or search.propose is not None,
        ),
        Rule(
            cel="!has(self.candidates) || self.candidates.all(one, self.candidates.exists_one(other, other == one))",
            message="candidates must be different from each other",
            field="candidates",
            holds=lambda search: len(set(search.candidates)) == len(search.candidates),
            item=lambda search: _repeated(search.candidates),
        ),
    )


def _repeated(texts: tuple[str, ...]) -> int:
    """The position of the first text that stands before as well."""
    return next(place for place, text in enumerate(texts) if text in texts[:place])


def _of_kto(name: str, field: str) -> Rule:
    """The weight ``name`` is only valid for the loss KTO."""

    def holds(preference: PreferenceSpec) -> bool:
        return getattr(preference, name) == 1 or preference.loss is PreferenceLoss.KTO

    return Rule(
        cel=f"!has(self.{field}) || self.{field} == 1.0 || has(self.loss) && self.loss == 'KTO'",
        message=f"{field} is only valid for the loss KTO",
        field=field,
        holds=holds,
    )


class PreferenceSpec(ApiModel):
    """How PreferenceTuning learns, with any method."""

    loss: PreferenceLoss = Field(
        default=PreferenceLoss.DPO,
        description="; ".join(f"{loss}: {row.summary}" for loss, row in PREFERENCES.items()) + ".",
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        le=100,
        description="Factor of rewards with DPO and KTO: the larger, the closer the model stays to the base model. "
        "With ORPO, the weight of the odds ratio beside the likelihood of the chosen answer.",
    )
    desirable_weight: float = Field(default=1.0, gt=0, le=1000, description="KTO: weight of desirable answers.")
    undesirable_weight: float = Field(default=1.0, gt=0, le=1000, description="KTO: weight of undesirable answers.")

    rules: ClassVar[tuple[Rule, ...]] = (
        _of_kto("desirable_weight", "desirableWeight"),
        _of_kto("undesirable_weight", "undesirableWeight"),
    )
