// The proofs of what is under quant, calibration and transform, but for replicas of inputs.
#include "tests/experiments/keys.h"
#include "tests/io/gguf_of_folder.h"

namespace experiments {

namespace {

class QuantizationProof : public Proof {
 public:
  Proofs all() {
    return {
        {"quant.method", [this] { changes_the_result("quant.method=none"); }},
        {"calibration.corpus", [this] { changes_the_result("calibration.corpus=tiny/valid", calibrated_); }},
        {"calibration.samples", [this] { changes_the_result("calibration.samples=3", calibrated_); }},
        {"calibration.seq_len", [this] { changes_the_result("calibration.seq_len=32", calibrated_); }},
        {"calibration.sampling", [this] { changes_the_result("calibration.sampling=sequential", calibrated_); }},
        {"calibration.propagate_error",
         [this] { changes_the_result("calibration.propagate_error=false", calibrated_); }},
        {"calibration.targets", [this] { changes_the_result("calibration.targets=weight", calibrated_); }},
        {"calibration.target_share", [this] { changes_the_result("calibration.target_share=0.5", corrected_); }},
        {"calibration.target_damp", [this] { changes_the_result("calibration.target_damp=0.5", corrected_); }},
        {"calibration.imatrix", [this] { imatrix(); }},
        {"calibration.batch_tokens", [this] { only_rounding("calibration.batch_tokens=64"); }},
        {"quant.gptq.damp", [this] { changes_the_result("quant.gptq.damp=0.2", calibrated_); }},
        {"quant.gptq.block_size", [this] { only_rounding("quant.gptq.block_size=16"); }},
        {"quant.adaround.iterations", [this] { changes_the_result("quant.adaround.iterations=5", adaround_); }},
        {"quant.adaround.lr", [this] { changes_the_result("quant.adaround.lr=0.3", adaround_); }},
        {"quant.adaround.lambda", [this] { changes_the_result("quant.adaround.lambda=1", adaround_); }},
        {"quant.adaround.warm_up", [this] { changes_the_result("quant.adaround.warm_up=0.8", adaround_); }},
        {"quant.adaround.beta", [this] { changes_the_result("quant.adaround.beta=[4, 2]", adaround_); }},
        {"quant.hqq.lp_norm", [this] { changes_the_result("quant.hqq.lp_norm=0.3", hqq_); }},
        {"quant.hqq.beta", [this] { changes_the_result("quant.hqq.beta=200", hqq_); }},
        {"quant.hqq.kappa", [this] { changes_the_result("quant.hqq.kappa=2", hqq_); }},
        {"quant.hqq.iterations", [this] { changes_the_result("quant.hqq.iterations=2", hqq_); }},
        {"quant.hqq.early_stop", [this] { changes_the_result("quant.hqq.early_stop=false", hqq_); }},
        {"quant.ldlq.damp",
         [this] {
           changes_the_result("quant.ldlq.damp=0.2",
                              {"quant.method=ldlq", "calibration.samples=4", "calibration.seq_len=64"});
         }},
        {"quant.signround.iterations", [this] { changes_the_result("quant.signround.iterations=3", signround_); }},
        {"quant.signround.batch", [this] { changes_the_result("quant.signround.batch=2", signround_); }},
        {"quant.signround.lr", [this] { changes_the_result("quant.signround.lr=0.01", signround_); }},
        {"quant.signround.minmax_lr", [this] { changes_the_result("quant.signround.minmax_lr=0.01", signround_); }},
        {"quant.signround.tune_range", [this] { changes_the_result("quant.signround.tune_range=false", signround_); }},
        {"quant.signround.targets", [this] { changes_the_result("quant.signround.targets=same", signround_); }},
        {"quant.gptq.act_order", [this] { changes_the_result("quant.gptq.act_order=false", calibrated_); }},
        {"quant.gptq.static_groups", [this] { static_groups(); }},
        {"quant.gptq.gar", [this] { changes_the_result("quant.gptq.gar=true", calibrated_); }},
        {"quant.descent", [this] { changes_the_result("quant.descent=1", calibrated_); }},
        {"calibration.true_sequential",
         [this] { changes_the_result("calibration.true_sequential=false", calibrated_); }},
        {"quant.awq.grid", [this] { changes_the_result("quant.awq.grid=3", awq_); }},
        {"quant.awq.duo_scaling", [this] { changes_the_result("quant.awq.duo_scaling=true", awq_); }},
        {"quant.awq.tokens", [this] { changes_the_result("quant.awq.tokens=1", one_by_one(awq_)); }},
        {"quant.awq.clip", [this] { changes_the_result("quant.awq.clip=false", awq_); }},
        {"quant.awq.clip_grid", [this] { changes_the_result("quant.awq.clip_grid=4", awq_); }},
        {"quant.awq.max_shrink", [this] { changes_the_result("quant.awq.max_shrink=0.1", awq_); }},
        {"transform[].awq.grid", [this] { changes_the_result("transform=[{awq: {grid: 3}}]", awq_scales_); }},
        {"transform[].awq.duo_scaling",
         [this] { changes_the_result("transform=[{awq: {duo_scaling: true}}]", awq_scales_); }},
        {"transform[].awq.tokens",
         [this] { changes_the_result("transform=[{awq: {tokens: 1}}]", one_by_one(awq_scales_)); }},
        {"transform[].smoothquant.alpha",
         [this] {
           Strings given = at_once_;
           given.push_back("transform=[{smoothquant: {}}]");
           changes_the_result("transform=[{smoothquant: {}}]", at_once_);
           changes_the_result("transform=[{smoothquant: {alpha: 0.8}}]", given);
         }},
        {"quant.stored.file", [this] { stored_file(); }},
        {"quant.router.bits", [this] { experts("quant.router.bits=2"); }},
        {"quant.expert_bits.policy",
         [this] {
           Strings given = kMixture;
           given.push_back("quant.weight.bits=3");  // of experts by default 2, where they have bits of their own
           each_choice_differs("quant.expert_bits.policy", given);
         }},
        {"quant.expert_bits.mean_bits",
         [this] {
           changes_the_result("quant.expert_bits.mean_bits=3", mixture("quant.expert_bits={policy: optimal}"));
         }},
        {"quant.expert_bits.alpha",
         [this] { changes_the_result("quant.expert_bits.alpha=0", mixture("quant.expert_bits={policy: optimal}")); }},
        {"quant.expert_bits.beta",
         [this] {
           changes_the_result("quant.expert_bits.beta=0", mixture("quant.expert_bits={policy: optimal, alpha: 0}"));
         }},
        {"quant.expert_bits.choices",
         [this] {
           changes_the_result("quant.expert_bits.choices=[1, 4]", mixture("quant.expert_bits={policy: optimal}"));
         }},
        {"calibration.all_experts", [this] { experts("calibration.all_experts=true"); }},
        {"calibration.min_token_fraction", [this] { experts("calibration.min_token_fraction=0.3"); }},
        {"calibration.fallback",
         [this] { experts("calibration.fallback=pooled", {"calibration.min_token_fraction=0.3"}); }},
        {"quant.weight.preset", [this] { preset(); }},
        {"quant.weight.bits", [this] { changes_the_result("quant.weight.bits=3"); }},
        {"quant.weight.group_size", [this] { changes_the_result("quant.weight.group_size=32"); }},
        {"quant.weight.symmetry", [this] { each_choice_differs("quant.weight.symmetry"); }},
        {"quant.weight.zero_point", [this] { each_choice_differs("quant.weight.zero_point"); }},
        {"quant.weight.scale_dtype", [this] { each_choice_differs("quant.weight.scale_dtype"); }},
        {"quant.weight.scale_bits", [this] { changes_the_result("quant.weight.scale_bits=4"); }},
        {"quant.weight.incoherence.hadamard", [this] { each_choice_differs("quant.weight.incoherence.hadamard"); }},
        {"quant.weight.incoherence.signs",
         [this] {
           changes_the_result("quant.weight.incoherence.signs=false", {"quant.weight.incoherence.hadamard=both"});
         }},
        {"quant.weight.scale_zero",
         [this] { changes_the_result("quant.weight.scale_zero=true", {"quant.weight.scale_bits=4"}); }},
        {"quant.weight.scale_group",
         [this] { changes_the_result("quant.weight.scale_group=1", {"quant.weight.scale_bits=3"}); }},
        {"quant.weight.range", [this] { changes_the_result("quant.weight.range=minmax"); }},
        {"quant.weight.range_search.grid",
         [this] { changes_the_result("quant.weight.range_search.grid=10", kSearched); }},
        {"quant.weight.range_search.max_shrink",
         [this] { changes_the_result("quant.weight.range_search.max_shrink=0.1", kSearched); }},
        {"quant.weight.range_search.norm",
         [this] { changes_the_result("quant.weight.range_search.norm=1", kSearched); }},
        {"quant.weight.range_search.both_signs",
         [this] {
           changes_the_result("quant.weight.range_search.both_signs=true", {"quant.weight.symmetry=signed_full"});
         }},
        {"quant.weight.clip", [this] { changes_the_result("quant.weight.clip=0.9"); }},
        {"quant.weight.offset", [this] { changes_the_result("quant.weight.offset=0.25"); }},
        {"quant.weight.rounding", [this] { changes_the_result("quant.weight.rounding=stochastic"); }},
        {"quant.weight.noise.sigma", [this] { changes_the_result("quant.weight.noise.sigma=0.1"); }},
        {"quant.weight.noise.at",
         [this] { changes_the_result("quant.weight.noise.at=train", {"quant.weight.noise.sigma=0.1"}); }},
        {"quant.weight.codebook",
         [this] {
           each_choice_differs("quant.weight.codebook", {}, {{"levels", {"quant.weight.levels=[-1, -0.3, 0.3, 1]"}}});
         }},
        {"quant.weight.levels",
         [this] {
           changes_the_result("quant.weight.levels=[-1, -0.3, 0.3, 0.9]",
                              {"quant.weight.codebook=levels", "quant.weight.levels=[-1, -0.3, 0.3, 1]"});
         }},
        {"quant.activation.bits", [this] { changes_the_result("quant.activation.bits=4"); }},
        {"quant.activation.mode", [this] { changes_the_result("quant.activation.mode=static", at_once_); }},
        {"quant.activation.range", [this] { changes_the_result("quant.activation.range=mse", static_); }},
        {"quant.activation.granularity",
         [this] {
           changes_the_result("quant.activation.granularity=per_tensor", kInputs);
           changes_the_result("quant.activation.granularity=per_group", kInputs);
         }},
        {"quant.activation.group_size",
         [this] {
           changes_the_result("quant.activation.group_size=32",
                              {"quant.activation.bits=4", "quant.activation.granularity=per_group"});
         }},
        {"quant.activation.symmetry", [this] { changes_the_result("quant.activation.symmetry=midrise", kInputs); }},
        {"quant.activation.clip.kind",
         [this] { changes_the_result("quant.activation.clip={kind: percentile, value: 99}", kInputs); }},
        {"quant.activation.clip.value", [this] { changes_the_result("quant.activation.clip.value=0.8", kInputs); }},
        {"quant.activation.offset", [this] { changes_the_result("quant.activation.offset=0.25", kInputs); }},
        {"quant.activation.rounding", [this] { changes_the_result("quant.activation.rounding=stochastic", kInputs); }},
        {"quant.rules[].activation",
         [this] { changes_the_result("quant.rules=[{match: \"*.down_proj\", activation: {bits: 4}}]"); }},
        {"quant.rules[].match", [this] { rules(); }},
        {"quant.rules[].weight", [this] { rules(); }},
    };
  }

 private:
  // Stands for keys: a run has the id of the same run with those.
  void preset() {
    const Strings preset{"quant.weight={preset: q4_0}"},
        keys{"quant.weight={bits: 4, group_size: 32, symmetry: signed_full}"};
    EXPECT_EQ(lab_.id(preset), lab_.id(keys));
    EXPECT_NE(lab_.nll(preset), lab_.nll());
    EXPECT_EQ(
        lab_.id({"quant.rules=[{match: '*.up_proj', weight: {preset: q4_0}}]"}),
        lab_.id({"quant.rules=[{match: '*.up_proj', weight: {bits: 4, group_size: 32, symmetry: signed_full}}]"}));
  }
  // In one of the files every matrix has a code that is another one.
  void stored_file() {
    const auto with = [&](const std::string& name, const core::GgufBytes& file) {
      return "quant={method: stored, stored: {file: " + lab_.put(name, file.bytes()) + "}}";
    };
    const auto changed = +[](const core::TensorView& view) {
      std::string blocks = as_q8_0(view);
      blocks[2] = static_cast<char>(blocks[2] ^ 0x40);  // behind the scale of the first block
      return blocks;
    };
    changes_the_result(with("codes.gguf", core::qwen3_as_gguf(shallow_model(), as_q8_0)),
                       {with("changed.gguf", core::qwen3_as_gguf(shallow_model(), changed))});
  }
  const Strings kSearched{"quant.weight.range=mse"};
  // Another run, whose float32 sums have another order. At 4 bits, because a code at a tie may fall to the other side,
  // and at 2 bits the blocks behind it would take it further.
  void only_rounding(const std::string& assignment) {
    Strings given = calibrated_;
    given.push_back("quant.weight.bits=4");
    Strings changed = given;
    changed.push_back(assignment);
    EXPECT_NE(lab_.id(changed), lab_.id(given));
    EXPECT_NEAR(lab_.nll(changed), lab_.nll(given), 0.02);
  }

  const Strings corrected_ = [this] {
    Strings all = calibrated_;
    all.push_back("calibration.targets=output");
    return all;
  }();
  const Strings adaround_{"quant.method=adaround", "quant.adaround.iterations=30", "quant.adaround.lr=0.1",
                          "calibration.samples=4", "calibration.seq_len=64"};
  const Strings hqq_{"quant.method=hqq", "quant.weight.zero_point=float"};
  const Strings signround_{"quant.method=signround", "quant.signround.iterations=6", "calibration.samples=4",
                           "calibration.seq_len=64"};
  const Strings at_once_{"quant.activation.bits=4", "quant.activation.granularity=per_tensor", "calibration.samples=4",
                         "calibration.seq_len=64"};
  // Of another text than the one that is measured.
  void imatrix() {
    const std::string file = lab_.file("imatrix.gguf");
    lab_.row({"exports.imatrix={path: " + file + ", corpus: " + lab_.file("text.txt") + ", seq_len: 16, windows: 2}"});
    changes_the_result("calibration.imatrix=" + file,
                       {"quant.weight.range=importance", "calibration.samples=4", "calibration.seq_len=64"});
    EXPECT_THAT(core::message_of([&] {
                  lab_.run({"calibration.imatrix=" + file, "quant.weight.range=mse"});
                }),
                ::testing::HasSubstr("calibration.imatrix: nothing reads mean squares of inputs."));
    EXPECT_THAT(core::message_of([&] {
                  lab_.run({"calibration.imatrix=nowhere.gguf", "quant.weight.range=importance"});
                }),
                ::testing::HasSubstr("nowhere.gguf: there is no such file."));
  }
  const Strings awq_{"quant.method=awq", "calibration.samples=4", "calibration.seq_len=64"};
  const Strings awq_scales_{"transform=[{awq: {}}]", "calibration.samples=4", "calibration.seq_len=64"};
  const Strings static_ = [this] {
    Strings all = at_once_;
    all.push_back("quant.activation.mode=static");
    return all;
  }();
  static Strings one_by_one(Strings given) {  // windows
    given.push_back("calibration.batch_tokens=64");
    return given;
  }
  void experts(const std::string& assignment, Strings given = {}) {
    given.insert(given.end(), kMixture.begin(), kMixture.end());
    given.push_back("quant.method=gptq");
    changes_the_result(assignment, given);
  }
  const Strings kMixture{"model.path=tiny-deepseek-moe", "calibration.samples=4", "calibration.seq_len=64"};
  Strings mixture(const std::string& more) const {
    Strings given = kMixture;
    given.push_back(more);
    return given;
  }
  void static_groups() {
    Strings natural = calibrated_;
    natural.push_back("quant.gptq.act_order=false");
    changes_the_result("quant.gptq.static_groups=false", natural);
  }
  void rules() {
    changes_the_result("quant.rules=[{match: \"*.down_proj\", weight: {bits: 4}}]");
    const Strings one{"quant.rules=[{match: \"*.down_proj\", weight: {bits: 4}}]"};
    changes_the_result("quant.rules[0].match=role:q_proj", one);
    changes_the_result("quant.rules[0].weight={group_size: 16}", one);
    changes_the_result("quant.rules=[{match: lm_head, weight: {bits: 3}}]");
    changes_the_result("quant.rules=[{match: \"*embed_tokens\", weight: {bits: 3}}]");
  }
};

}  // namespace

Proofs proofs_of_quantization() { return proofs_of<QuantizationProof>(); }

}  // namespace experiments
