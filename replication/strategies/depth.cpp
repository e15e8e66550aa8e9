// Gated depth replication (S6): a span of blocks runs several times,
//   h += g_r^a Attention(h; θ_r),  h += g_r^m Mlp(h; θ_r),  g_1 = 1,
// on one set of codes. Every pass may have parameters, norms and gates of its own; until training gives it others, a
// pass has the block's. With shared keys and values later passes attend to those of the first and compute none.
//
// With `part` later passes run one half of the block alone. With `damped` every pass, the first one too, adds 1 / K of
// its update, K the number of passes: K steps of the size 1 / K in place of one (arXiv 2605.23872), for which the model
// is not trained.
//
// A block is calibrated on its first step. With calibrate: all_steps the statistics of its later steps are added, as
// the full-precision model has them when it runs through the same plan: what quantized blocks will make of these inputs
// depends on the very codes that are to be chosen.
#include "core/error.h"
#include "replication/own_parameters.h"
#include "replication/strategy.h"

namespace replication {

namespace {

struct Depth : BlockStrategy {
  std::vector<int64_t> span;
  std::string order = "block", kv = "shared", calibrate = "first", part = "block";
  int64_t passes = 2;
  bool damped = false;
  double gate_init = 0.0, jitter = 0.0;

  std::string summary() const override { return "a span of blocks runs several times, behind gates"; }
  void keys(core::Keys& k) override {
    k.key("span", span, "first and last block that run several times, e.g. [4, 6]; default: all blocks", {0, 1 << 20});
    k.key("order", order, "block: each block several times in a row; span: the span as a whole", {"block", "span"});
    k.key("passes", passes, "how often each block runs", {2, 16});
    k.key("kv", kv, "keys and values of later passes; shared: those of the first pass; own: each computes its own",
          {"shared", "own"});
    core::Key& gate =
        k.key("gate_init", gate_init,
              "factor on what attention and MLP of later passes add, until it is trained; 0: as if they were not there",
              {-4, 4});
    if (damped) gate.only_if_given();
    core::Key& half =
        k.key("part", part, "what later passes run: the block, or one half of it alone", {"block", "attention", "mlp"});
    if (part == "block") half.only_if_given();
    core::Key& damping =
        k.key("damped", damped,
              "all passes, the first one too, add their update times 1 / passes, each on keys and values of its own; "
              "gate_init is not read");
    if (!damped) damping.only_if_given();
    k.key("calibrate", calibrate,
          "inputs on which a block that runs several times is quantized; first: of its first step; all_steps: and of "
          "later ones, as the full-precision model has them in this plan",
          {"first", "all_steps"})
        .only_if_given();
    k.key("jitter", jitter,
          "relative standard deviation of the scales of later passes around those of the block, where training begins",
          {0, 0.5})
        .only_if_given();
  }

  bool needs_codes() const override { return jitter > 0; }
  bool gives_parameters() const override { return jitter > 0; }
  int64_t gates() const override { return part == "block" ? 2 : 1; }
  int64_t gates_of_block() const override { return damped ? gates() : 0; }
  void check() const override {
    core::require(!damped || !given("gate_init"),
                  "{}: every pass adds 1 / passes of its update with damped: true. Leave one of the two out.",
                  where("gate_init"));
    core::require(!(damped || part == "mlp") || !given("kv") || kv == "own",
                  "{}: {} has no use for keys and values of another pass. Leave kv out.", where("kv"),
                  damped ? "damped: true" : "part: mlp");
  }
  bool selects() const override { return false; }

  core::Plan plan(const core::Shape& shape, const std::set<int64_t>& /*chosen*/) const override {
    const int64_t first = span.empty() ? 0 : span.front(), last = span.empty() ? shape.layers - 1 : span.back();
    core::require(span.empty() || span.size() == 2,
                  "{} has {} numbers. Give the first and the last block, e.g. [4, 6].", where("span"), span.size());
    core::require(first <= last && last < shape.layers,
                  "{}: [{}, {}] is no span of this model, whose blocks are 0 to {}. Give the first and the last block.",
                  where("span"), first, last, shape.layers - 1);
    core::Plan plan;
    std::map<int64_t, int64_t> first_step;  // of a block
    const auto run = [&](int64_t block, int64_t pass) {
      const auto [at, is_first] = first_step.emplace(block, static_cast<int64_t>(plan.size()));
      const bool own = is_first || kv == "own" || damped || part == "mlp";
      const core::Half half = part == "attention" ? core::Half::attention : core::Half::feed_forward;
      plan.push_back({.block = block,
                      .replica = pass,
                      .kv = own ? core::Step::kOwn : at->second,
                      .only = is_first || part == "block" ? core::Half::none : half});
    };
    for (int64_t i = 0; i < first; ++i) run(i, 0);
    const int64_t length = last - first + 1;
    for (int64_t i = 0; i < length * passes; ++i)
      order == "block" ? run(first + i / passes, i % passes) : run(first + i % length, i / length);
    for (int64_t i = last + 1; i < shape.layers; ++i) run(i, 0);
    return plan;
  }

  bool looks_ahead() const override { return calibrate == "all_steps"; }
  std::vector<quant::FurtherInput> further_inputs(const core::Slot& slot, const core::Plan& plan) const override {
    std::vector<quant::FurtherInput> all;
    for (size_t i = 0; calibrate == "all_steps" && i < plan.size(); ++i) {
      if (plan[i].block == slot.block() && plan[i].replica > 0) all.push_back({slot.path(), static_cast<int64_t>(i)});
    }
    return all;
  }

  void prepare(core::Block& block, core::Block& replica, uint64_t seed) const override {
    if (jitter > 0) give_own_parameters(block, replica, jitter, seed);
    const double gate = damped ? 1.0 / static_cast<double>(passes) : gate_init;
    for (core::Block* one : {&block, &replica}) {
      if (one == &block && !damped) continue;
      if (part != "mlp") one->attention_gate().put(gate);
      if (part != "attention") one->mlp_gate().put(gate);
    }
  }
};

}  // namespace

core::Polymorphic<Strategy> make_depth() { return Depth{}; }

}  // namespace replication
