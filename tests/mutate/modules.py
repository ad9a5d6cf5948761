"""Which fast tests hold which module: the modules in the order in which they are run, the closest tests first."""

STAGES, MODELS = "tests/stages", "tests/models"
OBJECTIVES, GEOMETRY = f"{STAGES}/objectives", "tests/kernels/geometry"
DATA = "tests/engine/data"
_HEAD_TESTS = ("heads_by_hand", "heads", "dpt_head", "divided_heads")
SUITE = "tests/evaluate/consistency"
_FIGURES = ("averages", "depth", "motion")
_FIGURE_TESTS = tuple(f"{SUITE}/test_{name}.py" for name in ("consistency_metrics", "clip_figures", "every_figure"))
WAN, ATTENTION, ELEMENTWISE = f"{MODELS}/wan", "tests/kernels/attention", "tests/kernels/elementwise"

MODULES: dict[str, tuple[str, ...]] = {
    "phys4d/stages/spec.py": (
        f"{STAGES}/test_stage_spec.py", f"{STAGES}/test_layer_decay.py", f"{OBJECTIVES}/test_settings.py",
    ),
    "phys4d/stages/geometry_loss.py": (
        f"{OBJECTIVES}/test_geometry_loss.py", f"{OBJECTIVES}/test_settings.py", f"{OBJECTIVES}/test_disparity_loss.py",
    ),
    "phys4d/stages/config.py": (f"{OBJECTIVES}/test_settings.py",),
    "phys4d/stages/adapter.py": (
        *(
            f"{STAGES}/test_adapter.py::test_{name}"
            for name in (
                "published_models_have_the_authors_rank_and_our_own_a_smaller_one",
                "the_factors_count_alpha_over_rank_times",
                "blocks_outside_the_range_carry_no_adapter", "what_a_model_cannot_have_is_refused",
            )
        ),
        f"{OBJECTIVES}/test_settings.py",
    ),
    "phys4d/stages/data.py": (f"{STAGES}/test_stage_data.py",),
    "phys4d/mixture.py": (
        *(
            f"{STAGES}/test_mixture.py::test_{name}"
            for name in (
                "a_batch_holds_clips_of_one_size_and_all_are_drawn_equally_often",
                "weights_say_how_many_clips_come_from_each_dataset", "columns_choose_the_clips_that_take_part",
                "a_choice_that_cannot_be_made_is_refused", "a_bad_clip_is_replaced_by_one_of_its_size",
                "latents_are_read_where_all_parts_have_them_and_pixels_where_they_are_needed",
            )
        ),
        f"{STAGES}/test_affine_labels.py::test_a_batch_says_of_each_clip_what_its_depth_is",
        f"{STAGES}/test_affine_labels.py::test_a_mixture_asks_for_metres_unless_it_is_allowed_not_to",
        f"{STAGES}/test_affine_labels.py::test_an_index_of_another_kind_than_the_json_is_refused",
    ),
    "phys4d/batch.py": (f"{OBJECTIVES}/test_batch.py",),
    "phys4d/stages/caption_dropout.py": (
        f"{OBJECTIVES}/test_caption_dropout.py", f"{OBJECTIVES}/test_settings.py",
    ),
    "phys4d/stages/disparity_loss.py": (f"{OBJECTIVES}/test_disparity_loss.py",),
    "phys4d/stages/codec.py": (f"{OBJECTIVES}/test_codec_loss.py", f"{OBJECTIVES}/test_settings.py"),
    "phys4d/models/shipped.py": (f"{MODELS}/small/test_pretrained.py",),
    "phys4d/models/small/codec.py": (f"{MODELS}/small/test_small_codec.py",),
    "phys4d/models/small/backbone.py": (f"{MODELS}/small/test_small_backbone.py",),
    "phys4d/stages/backbone.py": (f"{OBJECTIVES}/test_backbone_loss.py", f"{OBJECTIVES}/test_settings.py"),
    "phys4d/stages/pretrain.py": (
        f"{OBJECTIVES}/test_pretrain_loss.py", f"{OBJECTIVES}/test_settings.py", f"{OBJECTIVES}/test_disparity_loss.py",
    ),
    "phys4d/stages/finetune.py": (
        f"{OBJECTIVES}/test_finetune_loss.py", f"{OBJECTIVES}/test_settings.py",
        f"{OBJECTIVES}/test_micro_batches.py::test_all_ranks_call_the_heads_in_the_same_micro_batches",
    ),
    "phys4d/stages/flow_sde.py": (f"{STAGES}/test_flow_sde.py", f"{OBJECTIVES}/test_reinforce_loss.py"),
    "phys4d/stages/ppo.py": (f"{STAGES}/test_policy.py", f"{OBJECTIVES}/test_reinforce_loss.py"),
    "phys4d/stages/reinforce_config.py": (f"{OBJECTIVES}/test_settings.py", f"{OBJECTIVES}/test_reinforce_loss.py"),
    "phys4d/stages/reinforce.py": (
        f"{OBJECTIVES}/test_reinforce_batches.py", f"{OBJECTIVES}/test_reinforce_loss.py",
        f"{OBJECTIVES}/test_settings.py",
    ),
    "phys4d/stages/policy.py": (
        f"{OBJECTIVES}/test_reinforce_batches.py", f"{OBJECTIVES}/test_reinforce_loss.py",
        f"{OBJECTIVES}/test_settings.py", f"{OBJECTIVES}/test_reward_gradient.py",
        f"{OBJECTIVES}/test_caption_dropout.py",
    ),
    "phys4d/stages/reward_gradient.py": (
        f"{OBJECTIVES}/test_reward_gradient.py", f"{OBJECTIVES}/test_settings.py",
    ),
    "phys4d/rewards/expected_chamfer.py": ("tests/rewards/test_expected_chamfer.py",),
    "phys4d/rewards/moving_chamfer.py": (
        "tests/rewards/test_reward_by_hand.py", "tests/rewards/test_moving_chamfer.py",
    ),
    "phys4d/rewards/pixel_error.py": ("tests/rewards/test_pixel_error.py",),
    "phys4d/rewards/spec.py": ("tests/rewards/test_reward_by_hand.py",),
    "phys4d/rewards/all_points.py": ("tests/rewards/test_reward_by_hand.py",),
    "phys4d/models/guidance.py": (f"{MODELS}/test_guidance.py",),
    "phys4d/models/flow.py": (f"{MODELS}/test_flow_matching.py",),
    "phys4d/models/world.py": (
        f"{OBJECTIVES}/test_backbone_loss.py", f"{OBJECTIVES}/test_pretrain_loss.py",
        f"{OBJECTIVES}/test_reinforce_loss.py", f"{MODELS}/test_flow_matching.py",
        f"{MODELS}/test_division.py",
    ),
    "phys4d/models/config.py": (f"{MODELS}/test_model_settings.py",),
    "phys4d/models/initial.py": (f"{MODELS}/test_initial.py",),
    "phys4d/models/backbone.py": (
        f"{MODELS}/test_backbone.py", f"{MODELS}/tiny/test_diffusion_loss.py", f"{OBJECTIVES}/test_backbone_loss.py",
    ),
    "phys4d/models/tiny/backbone.py": (
        f"{MODELS}/tiny/test_diffusion_loss.py", f"{MODELS}/tiny/test_tiny_transformer.py",
        f"{MODELS}/test_flow_matching.py",
    ),
    "phys4d/models/tiny/spec.py": (f"{MODELS}/tiny/test_tiny_transformer.py",),
    "phys4d/models/tiny/words.py": (f"{MODELS}/tiny/test_words.py",),
    "phys4d/models/wan/backbone.py": (f"{WAN}/test_wan_backbone.py", f"{MODELS}/test_precision.py"),
    "phys4d/models/wan/codec.py": tuple(
        f"{WAN}/test_released.py::test_{name}"
        for name in (
            "bands_are_taken_where_they_were_asked_for",
            "sizes_that_the_autoencoder_would_cut_are_refused",
            "latents_are_normalised_as_the_autoencoder_says", "the_codec_is_frozen_and_its_normalisation_is_not_saved",
            "every_channel_has_its_own_mean_and_deviation_both_ways",
        )
    ),
    "phys4d/models/wan/bands.py": (f"{WAN}/test_bands.py",),
    "phys4d/models/recomputed.py": (f"{MODELS}/test_codec_gradients.py",),
    "phys4d/models/wan/schedule.py": (f"{WAN}/test_schedule.py",),
    "phys4d/models/wan/text.py": (f"{WAN}/test_text.py", f"{WAN}/test_released.py"),
    "phys4d/models/wan21/schedule.py": (f"{MODELS}/wan21/test_wan21_schedule.py",),
    **{
        f"phys4d/models/heads/{name}.py": tuple(f"{MODELS}/test_{tests}.py" for tests in _HEAD_TESTS)
        for name in (
            "config", "modulation", "tokens", "residual", "linear", "convolved", "conv", "temporal", "dpt", "chunks",
            "geometry",
        )
    },
    "phys4d/models/tiny/copying.py": (f"{MODELS}/tiny/test_copying.py",),
    "phys4d/models/tiny/haar.py": (f"{MODELS}/tiny/test_haar.py", f"{MODELS}/test_clip_sizes.py"),
    "phys4d/models/lora.py": (
        f"{MODELS}/test_lora_configuration.py", f"{MODELS}/test_lora_files.py", f"{MODELS}/test_initial.py",
        f"{MODELS}/test_folder.py",
    ),
    "phys4d/models/lora_file.py": (f"{MODELS}/test_lora_configuration.py", f"{MODELS}/test_lora_files.py"),
    "phys4d/models/interface.py": (f"{MODELS}/test_clip_sizes.py",),
    "kernels/geometry/losses/flow_reference.py": (
        f"{GEOMETRY}/test_flow_reference.py", f"{GEOMETRY}/test_flow_losses.py",
    ),
    "kernels/geometry/losses/depth_reference.py": (
        f"{GEOMETRY}/test_depth_reference.py", f"{GEOMETRY}/test_depth_losses.py",
    ),
    "kernels/geometry/losses/warp_reference.py": (
        f"{GEOMETRY}/test_warp_consistency.py", f"{GEOMETRY}/test_warp_op.py",
    ),
    "kernels/geometry/losses/scene_flow_reference.py": (f"{GEOMETRY}/test_scene_flow.py",),
    "kernels/geometry/warps/flow_warp_reference.py": (f"{GEOMETRY}/test_flow_warp.py",),
    "kernels/geometry/warps/splat_reference.py": (f"{GEOMETRY}/test_splat.py",),
    "kernels/geometry/clouds/chamfer_reference.py": (
        f"{GEOMETRY}/test_chamfer.py", f"{GEOMETRY}/test_chamfer_forms.py", f"{GEOMETRY}/test_chamfer_op.py",
    ),
    "kernels/geometry/unproject.py": (f"{GEOMETRY}/test_unproject.py",),
    "kernels/elementwise/rope.py": (f"{ELEMENTWISE}/test_norm_rope.py", "tests/kernels/test_call_words.py"),
    "kernels/elementwise/norm_rope_reference.py": (f"{ELEMENTWISE}/test_norm_rope.py",),
    "kernels/elementwise/adaptive_norm_reference.py": (f"{ELEMENTWISE}/test_adaptive_norm.py",),
    "kernels/attention/patterns.py": (
        f"{ATTENTION}/test_attention_patterns.py", f"{ATTENTION}/test_attention_reach.py",
        f"{ATTENTION}/test_attention_flops.py::test_pairs_are_those_of_the_mask", "tests/kernels/test_call_words.py",
    ),
    "kernels/attention/reference.py": (
        f"{ATTENTION}/test_attention_reference.py", f"{ATTENTION}/test_attention.py",
        f"{ATTENTION}/test_attention_reach.py",
    ),
    "kernels/attention/int8_reference.py": (f"{ATTENTION}/test_int8.py",),
    "kernels/attention/flops.py": (
        f"{ATTENTION}/test_int8.py::test_its_work_is_counted", f"{ATTENTION}/test_attention_flops.py",
    ),
    "engine/training/flops.py": ("tests/engine/test_flops.py",),
    "engine/training/telemetry.py": ("tests/engine/test_training_telemetry.py",),
    "engine/data/sampler.py": (f"{DATA}/test_sampler.py",),
    "engine/data/stream.py": (f"{DATA}/test_stream.py",),
    "engine/training/sample_order.py": ("tests/engine/test_training_telemetry.py",),
    "kernels/attention/varlen.py": (f"{ATTENTION}/test_attention_varlen.py",),
    **{f"phys4d/evaluate/consistency/{name}.py": _FIGURE_TESTS for name in _FIGURES},
    "phys4d/evaluate/intervals.py": ("tests/evaluate/test_intervals.py", "tests/evaluate/test_compare.py"),
    "phys4d/evaluate/compare.py": ("tests/evaluate/test_compare.py",),
    "phys4d/evaluate/changes.py": ("tests/evaluate/test_changes.py",),
}  # fmt: skip


def dotted(module: str) -> str:
    """The name under which a file of this table is imported: `kernels` is reached through phys4d."""
    name = module.removesuffix(".py").replace("/", ".")
    return name if name.startswith("phys4d.") else f"phys4d.{name}"
