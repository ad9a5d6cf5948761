"""All training stages. A new stage is one file beside this one that defines SPEC, and one line here."""

from phys4d.stages import backbone, finetune, pretrain, reinforce
from phys4d.stages.spec import StageSpec

STAGES: dict[str, StageSpec] = {
    spec.name: spec
    for spec in (
        backbone.SPEC,
        pretrain.SPEC,
        finetune.SPEC,
        reinforce.SPEC,
    )
}
