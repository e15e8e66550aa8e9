// The loop of training: rates, units, clipping, what stays, and going on where it was stopped.
#include "quant/qat/optimize.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include <limits>

#include "quant/grids/make_format.h"
#include "tests/quant/grid_cases.h"
#include "tests/support/toy_model.h"

namespace quant {
namespace {

QatConfig qat_config(const std::string& yaml) {
  QatConfig config;
  core::bind(core::parse_yaml(yaml, "a.yaml"), config, "qat");
  return config;
}

std::shared_ptr<const WeightFormat> grid_factory(const WeightFormat& format, const WeightConfig& weight,
                                                 int64_t in_features, int64_t) {
  return make_format(weight, format.place().path, in_features, format.place().seed);
}

// The toy model with its linears rounded to nearest.
struct Model {
  explicit Model(const std::string& weight = "{bits: 2, group_size: 16, zero_point: float}") {
    toy.load_blocks();
    for (core::Slot* slot : toy.model->slots()) {
      const auto format = make_format(weight_config(weight), slot->path(), slot->in_features(), 1);
      const at::Tensor w = slot->linear().weight();
      slot->put(std::make_shared<QuantizedLinear>(format, format->encode(w, format->fit(w, {})), slot->linear().bias(),
                                                  32, at::kFloat));
    }
  }
  std::vector<torch::nn::Module*> blocks() {
    std::vector<torch::nn::Module*> all;
    for (int64_t i = 0; i < toy::kLayers; ++i) all.push_back(&toy.model->block(i));
    return all;
  }
  toy::Toy toy;
};

// Pulls all leaves towards 1.1 × what they were: loss = Σ mean((x / x₀ − 1.1)²).
class Pull : public TrainingObjective {
 public:
  explicit Pull(const Training& training) : leaves_(training.leaves()) {
    for (const Leaf& leaf : leaves_) targets_.push_back(leaf.tensor.detach() * 1.1);
  }
  double backward(int64_t step) override {
    if (step == not_finite_at) return std::numeric_limits<double>::quiet_NaN();
    const c10::AutoGradMode gradients(true);
    const at::Tensor loss = distance();
    loss.backward();
    return loss.item<double>();
  }
  std::optional<double> held_out_loss() override {
    const at::NoGradGuard no_gradient;
    if (!examines) return std::nullopt;
    return worsens ? 1 + static_cast<double>(looks_++) : distance().item<double>();
  }
  bool examines = true, worsens = false;
  int64_t not_finite_at = -1;

 private:
  at::Tensor distance() const {
    at::Tensor sum = at::zeros({});
    for (size_t i = 0; i < leaves_.size(); ++i) {
      const double size = std::max(1e-3, targets_[i].abs().mean().item<double>());
      sum = sum + at::square((leaves_[i].tensor - targets_[i]) / size).mean();
    }
    return sum;
  }
  const std::vector<Leaf>& leaves_;
  std::vector<at::Tensor> targets_;
  int64_t looks_ = 0;
};

using core::Kind;

std::vector<at::Tensor> values_of(const Training& training) {
  std::vector<at::Tensor> all;
  for (const Leaf& leaf : training.leaves()) all.push_back(leaf.tensor.detach().clone());
  return all;
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << i;
}

TEST(Rate, RisesLinearlyAndFallsAsACosine) {
  const QatConfig config = qat_config("{steps: 110, warmup: 10}");
  EXPECT_DOUBLE_EQ(rate(config, 0), 0.1);
  EXPECT_DOUBLE_EQ(rate(config, 9), 1.0);
  EXPECT_DOUBLE_EQ(rate(config, 10), 1.0);
  EXPECT_NEAR(rate(config, 60), 0.5, 1e-12);
  EXPECT_NEAR(rate(config, 109), (1 + std::cos(M_PI * 99 / 100)) / 2, 1e-12);
}

TEST(Training, FindsWhatIsNamedAndItsUnits) {
  Model model;
  Training training(model.blocks(), {Kind::scale, Kind::zero_point, Kind::norm}, grid_factory);
  std::map<Kind, int64_t> count;
  for (const Leaf& leaf : training.leaves()) {
    ++count[leaf.kind];
    EXPECT_TRUE(leaf.tensor.requires_grad());
    const double mean = leaf.tensor.detach().abs().mean().item<double>();
    EXPECT_NEAR(leaf.unit, leaf.kind == Kind::zero_point ? 1 : mean, 1e-6 * mean) << leaf.name;
    EXPECT_EQ(leaf.stored_bits, leaf.kind == Kind::norm ? 32 : 16) << leaf.name;
  }
  const int64_t linears = 2 * toy::kLayers, groups = linears * toy::kFfn * toy::kWidth / 16;
  EXPECT_EQ(count, (std::map<Kind, int64_t>{{Kind::scale, linears}, {Kind::zero_point, linears}, {Kind::norm, 3}}));
  EXPECT_EQ(training.values(), 2 * groups + 3 * toy::kWidth);
  EXPECT_EQ(training.stored_bits(), 2 * groups * 16 + 3 * toy::kWidth * 32);
}

TEST(Training, LeavesTheSlotsAsTheyWereUnlessItIsFinished) {
  Model model;
  const auto before = model.toy.slot(0).pointer();
  { Training training(model.blocks(), {Kind::scale}, grid_factory); }
  EXPECT_EQ(model.toy.slot(0).pointer(), before);
  std::string hash;
  {
    Training training(model.blocks(), {Kind::scale}, grid_factory);
    hash = training.code_hash();
    for (const Leaf& leaf : training.leaves()) {
      const at::NoGradGuard no_gradient;
      at::Tensor(leaf.tensor).mul_(2);
    }
    training.finish();
    EXPECT_EQ(training.code_hash(), hash);
  }
  const auto* after = dynamic_cast<const QuantizedLinear*>(&model.toy.slot(0).linear());
  ASSERT_NE(after, nullptr);
  EXPECT_TRUE(at::allclose(after->weight(), before->weight() * 2));
  for (const core::State& state : core::named_state(*model.toy.model)) EXPECT_FALSE(state.tensor.requires_grad());
}

TEST(Optimize, MovesAParameterByTheRateTimesItsUnitInAStep) {
  Model model;
  Training training(model.blocks(), {Kind::scale, Kind::zero_point}, grid_factory);
  const auto before = values_of(training);
  Pull pull(training);
  optimize(qat_config("{steps: 1, warmup: 1, lr: 0.001, keep: last}"), training, pull, {});
  for (size_t i = 0; i < before.size(); ++i) {
    const Leaf& leaf = training.leaves()[i];
    const double moved = (leaf.tensor.detach() - before[i]).abs().max().item<double>();
    EXPECT_NEAR(moved, 0.001 * leaf.unit, 1e-3 * 0.001 * leaf.unit + 1e-7) << leaf.name;
  }
}

TEST(Optimize, FindsTheLeastAndLogsTheWay) {
  Model model;
  Training training(model.blocks(), {Kind::scale}, grid_factory);
  Pull pull(training);
  const Trained trained =
      optimize(qat_config("{steps: 200, warmup: 10, eval_every: 50, train: [scale]}"), training, pull, {});
  EXPECT_EQ(trained.steps, 200);
  EXPECT_LT(*trained.held_out_after, 0.01 * *trained.held_out_before);
  EXPECT_TRUE(trained.stopped.empty());
  ASSERT_EQ(trained.log.size(), 201u);
  EXPECT_DOUBLE_EQ(*trained.log[0].held_out, *trained.held_out_before);
  EXPECT_DOUBLE_EQ(trained.log[0].lr, 0.01 / 10);
  EXPECT_FALSE(trained.log[200].loss.has_value());
  EXPECT_TRUE(trained.log[200].held_out.has_value());
  EXPECT_FALSE(trained.log[1].held_out.has_value());
  const Trained again = trained_from_text(to_text(trained));
  EXPECT_EQ(again.log[5].loss, trained.log[5].loss);
  EXPECT_EQ(again.held_out_after, trained.held_out_after);
  EXPECT_FALSE(again.log[200].loss.has_value());
}

TEST(Optimize, ClipsTheGradient) {
  // AdamW does not see a constant factor, but the gradient shrinks on the way and is clipped less and less.
  const auto after_twenty = [](const std::string& clip) {
    Model model;
    Training training(model.blocks(), {Kind::scale}, grid_factory);
    Pull pull(training);
    optimize(qat_config("{steps: 20, warmup: 1, keep: last, train: [scale], clip_norm: " + clip + "}"), training, pull,
             {});
    return values_of(training);
  };
  const auto free = after_twenty("0"), wide = after_twenty("1e6"), narrow = after_twenty("0.002");
  expect_equal(free, wide);
  EXPECT_FALSE(at::equal(free[0], narrow[0]));
}

TEST(Optimize, KeepsTheBestIterateTheUntrainedOneIncluded) {
  Model model;
  Training training(model.blocks(), {Kind::scale}, grid_factory);
  const auto before = values_of(training);
  Pull pull(training);
  pull.worsens = true;
  const Trained trained = optimize(qat_config("{steps: 10, eval_every: 2, train: [scale]}"), training, pull, {});
  EXPECT_EQ(trained.kept, 0);
  EXPECT_EQ(trained.steps, 10);
  EXPECT_EQ(*trained.held_out_after, 1);
  expect_equal(values_of(training), before);
  Pull again(training);
  again.worsens = true;
  const Trained early =
      optimize(qat_config("{steps: 10, eval_every: 2, patience: 2, train: [scale]}"), training, again, {});
  EXPECT_EQ(early.steps, 4);
  EXPECT_THAT(early.stopped, ::testing::HasSubstr("no better one in 2 looks"));
}

TEST(Optimize, StopsAtALossThatIsNotFiniteAndKeepsTheLastGoodIterate) {
  Model model;
  Training training(model.blocks(), {Kind::scale}, grid_factory);
  Pull pull(training);
  pull.not_finite_at = 5;
  pull.examines = false;
  const Trained trained =
      optimize(qat_config("{steps: 20, train: [scale], keep: last, held_out: 0}"), training, pull, {});
  EXPECT_EQ(trained.stopped, "at step 5: the loss is not finite. Lower qat.lr.");
  EXPECT_EQ(trained.kept, 4);
  EXPECT_EQ(trained.steps, 5);
}

TEST(Optimize, GoesOnWithTheSameBits) {
  const std::string yaml = "{steps: 30, eval_every: 4, save_every: 7, train: [scale, zero_point], clip_norm: 0.5}";
  Model whole_model;
  Training whole(whole_model.blocks(), {Kind::scale, Kind::zero_point}, grid_factory);
  Pull pull(whole);
  const Trained at_once = optimize(qat_config(yaml), whole, pull, {});

  struct Stop {};
  const core::Scratch scratch;
  Progress progress{scratch.file("state.safetensors"), {}};
  progress.on_step = [](int64_t done, int64_t) {
    if (done == 17) throw Stop();
  };
  {
    Model model;
    Training training(model.blocks(), {Kind::scale, Kind::zero_point}, grid_factory);
    Pull part(training);
    EXPECT_THROW(optimize(qat_config(yaml), training, part, progress), Stop);
  }
  Model model;
  Training training(model.blocks(), {Kind::scale, Kind::zero_point}, grid_factory);
  Pull part(training);
  std::vector<int64_t> done;
  progress.on_step = [&](int64_t step, int64_t) { done.push_back(step); };
  const Trained resumed = optimize(qat_config(yaml), training, part, progress);
  EXPECT_EQ(done.front(), 15) << "behind the state that was saved after 14 steps";
  expect_equal(values_of(training), values_of(whole));
  EXPECT_EQ(resumed.kept, at_once.kept);
  ASSERT_EQ(resumed.log.size(), at_once.log.size());
  for (size_t i = 0; i < resumed.log.size(); ++i) {
    EXPECT_EQ(resumed.log[i].loss, at_once.log[i].loss) << i;
    EXPECT_EQ(resumed.log[i].held_out, at_once.log[i].held_out) << i;
    EXPECT_EQ(resumed.log[i].grad_norm, at_once.log[i].grad_norm) << i;
  }
}

}  // namespace
}  // namespace quant
