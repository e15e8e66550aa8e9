// Parallel block replication (S7): R replicas of a block side by side on one set of codes,
//   h += (1/R) Σ_r Attention(h; θ_r),  h += (1/R) Σ_r Mlp(h; θ_r),
// all of which attend to the keys and values of the first. Replicas start as the block with jittered scales.
#include "replication/own_parameters.h"
#include "replication/strategy.h"

namespace replication {

namespace {

struct Parallel : BlockStrategy {
  int64_t replicas = 2;
  double jitter = 0.02;

  std::string summary() const override { return "replicas of a block side by side, whose outputs are averaged"; }
  void keys(core::Keys& k) override {
    k.key("replicas", replicas, "of a block, side by side", {2, 16});
    k.key("jitter", jitter, "relative standard deviation of the scales of replicas 1, 2, ... around those of the block",
          {0, 0.5});
  }

  bool needs_codes() const override { return jitter > 0; }
  bool gives_parameters() const override { return jitter > 0; }
  std::vector<Rung> ladder() const override {
    const auto rung = [&](double jitter) {
      return core::make_map({{"replicas", core::make_integer(replicas)}, {"jitter", core::make_number(jitter)}});
    };
    return {{"identical", rung(0)}, {"jittered", rung(0.03)}, {"averaged", rung(0.03), /*averaged=*/true}};
  }
  std::string refuses_average() const override { return ""; }
  void average(core::Block& block, const std::vector<core::Block*>& all) const override {
    if (!all.empty()) average_parameters(block, all);
  }

  core::Plan plan(const core::Shape& shape, const std::set<int64_t>& chosen) const override {
    core::Plan plan = core::default_plan(shape.layers);
    for (core::Step& step : plan) {
      if (chosen.contains(step.block)) step.parallel = replicas;
    }
    return plan;
  }

  void prepare(core::Block& block, core::Block& replica, uint64_t seed) const override {
    if (jitter > 0) give_own_parameters(block, replica, jitter, seed);
  }
};

}  // namespace

core::Polymorphic<Strategy> make_parallel() { return Parallel{}; }

}  // namespace replication
