#include "quant/qat/optimize.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/interrupt.h"
#include "core/io/json_optional.h"
#include "core/io/safetensors.h"

namespace quant {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LogRow, step, loss, held_out, lr, grad_norm, seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Trained, log, steps, kept, held_out_before, held_out_after, stopped)

double rate(const QatConfig& config, int64_t step) {
  if (step < config.warmup) return static_cast<double>(step + 1) / static_cast<double>(config.warmup);
  const auto length = static_cast<double>(std::max<int64_t>(1, config.steps - config.warmup));
  return (1 + std::cos(std::numbers::pi * static_cast<double>(step - config.warmup) / length)) / 2;
}

namespace {

using Values = std::vector<at::Tensor>;

using torch::optim::AdamW;
using torch::optim::AdamWOptions;
using torch::optim::AdamWParamState;

class Optimization {
 public:
  Optimization(const QatConfig& config, Training& training, TrainingObjective& objective, const Progress& progress)
      : config_(config),
        training_(training),
        leaves_(training.leaves()),
        objective_(objective),
        progress_(progress),
        adam_(groups(leaves_, config.weight_decay), AdamWOptions(0)) {}

  Trained run() {
    const bool resumed = restore();
    if (!resumed) finite_ = snapshot();
    for (; step_ < config_.steps && result_.stopped.empty(); ++step_) {
      stop_if_asked();
      if (step_ % config_.eval_every == 0) look();
      if (!result_.stopped.empty()) break;
      take_step();
      if (!result_.stopped.empty()) break;
      if (progress_.on_step) progress_.on_step(step_ + 1, config_.steps);
      if ((step_ + 1) % config_.save_every == 0) save(step_ + 1);
    }
    result_.steps = step_;
    if (result_.stopped.empty()) look();
    choose();
    return std::move(result_);
  }

 private:
  // Codes do not decay: 0 is the lowest of them, not the smallest.
  static std::vector<torch::optim::OptimizerParamGroup> groups(const std::vector<Leaf>& leaves, double decay) {
    std::vector<torch::optim::OptimizerParamGroup> all;
    for (const Leaf& leaf : leaves) {
      auto options = std::make_unique<AdamWOptions>(0);
      options->weight_decay(leaf.kind == core::Kind::weight ? 0 : decay);
      all.emplace_back(std::vector<at::Tensor>{leaf.tensor}, std::move(options));
    }
    return all;
  }

  Values snapshot() const {
    Values values;
    for (const Leaf& leaf : leaves_) values.push_back(leaf.tensor.detach().clone());
    return values;
  }
  void put(const Values& values) const {
    const at::NoGradGuard no_gradient;
    for (size_t i = 0; i < leaves_.size(); ++i) at::Tensor(leaves_[i].tensor).copy_(values[i]);
  }

  double seconds() const {
    return before_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  LogRow& row() {
    if (result_.log.empty() || result_.log.back().step != step_) result_.log.push_back({step_, {}, {}, 0, 0, 0});
    return result_.log.back();
  }

  // The loss on held-out text of the iterate before this step.
  void look() {
    training_.step() = {step_, /*training=*/false};
    const std::optional<double> loss = objective_.held_out_loss();
    if (!loss) return;
    row().held_out = loss;
    row().seconds = seconds();
    if (!std::isfinite(*loss)) return stop("the loss on the held-out text");
    if (step_ == 0) result_.held_out_before = loss;
    if (best_.empty() || *loss < least_) {
      best_ = snapshot();
      least_ = *loss;
      best_step_ = step_;
      worse_ = 0;
    } else if (++worse_ == config_.patience) {
      result_.stopped = fmt::format("after {} steps: no better one in {} looks at the held-out text.", step_, worse_);
    }
  }

  void take_step() {
    training_.step() = {step_, /*training=*/true};
    for (const Leaf& leaf : leaves_) at::Tensor(leaf.tensor).mutable_grad() = at::Tensor();
    const double loss = objective_.backward(step_);
    const double norm = gradient_norm(), lr = config_.lr * rate(config_, step_);
    LogRow& entry = row();
    entry.loss = loss;
    entry.lr = lr;
    entry.grad_norm = norm;
    entry.seconds = seconds();
    if (!std::isfinite(loss)) return stop("the loss");
    finite_ = snapshot();
    finite_step_ = step_;
    if (!std::isfinite(norm)) return stop("the gradient");
    const double factor = config_.clip_norm > 0 && norm > config_.clip_norm ? config_.clip_norm / norm : 1;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      if (factor < 1 && leaves_[i].tensor.grad().defined()) leaves_[i].tensor.grad().mul_(factor);
      adam_.param_groups()[i].options().set_lr(lr * leaves_[i].unit);
    }
    adam_.step();
  }

  void stop(const std::string& what) {
    result_.stopped = fmt::format("at step {}: {} is not finite. Lower qat.lr.", step_, what);
    finite_stop_ = true;
  }

  // With respect to relative changes: of g · unit.
  double gradient_norm() const {
    double sum = 0;
    for (const Leaf& leaf : leaves_) {
      if (!leaf.tensor.grad().defined()) continue;
      const double norm = leaf.tensor.grad().norm().item<double>() * leaf.unit;
      sum += norm * norm;
    }
    return std::sqrt(sum);
  }

  void choose() {
    result_.kept = step_;
    if (config_.keep == "best" && !best_.empty()) {
      put(best_);
      result_.kept = best_step_;
      result_.held_out_after = least_;
      return;
    }
    if (finite_stop_) {
      put(finite_);
      result_.kept = finite_step_;
    } else if (!result_.log.empty()) {
      result_.held_out_after = result_.log.back().held_out;
    }
  }

  // ---- going on ----

  void stop_if_asked() {
    try {
      core::honour_interrupt();
    } catch (const core::Interrupted&) {
      save(step_);
      throw;
    }
  }

  // Moments of Adam; undefined before the first step.
  AdamWParamState* state_of(const Leaf& leaf) {
    const auto found = adam_.state().find(leaf.tensor.unsafeGetTensorImpl());
    return found == adam_.state().end() ? nullptr : static_cast<AdamWParamState*>(found->second.get());
  }

  void save(int64_t step) {
    if (progress_.file.empty()) return;
    std::vector<core::TensorToWrite> tensors;
    Values held;
    const auto add = [&](const std::string& name, const at::Tensor& value) {
      held.push_back(value.detach().cpu().contiguous());
      tensors.push_back({name, core::DType::F32, held.back().sizes().vec(), held.back().const_data_ptr()});
    };
    std::vector<int64_t> adam_steps;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      add(fmt::format("value.{}", i), leaves_[i].tensor);
      if (!best_.empty()) add(fmt::format("best.{}", i), best_[i]);
      if (!finite_.empty()) add(fmt::format("finite.{}", i), finite_[i]);
      const AdamWParamState* state = state_of(leaves_[i]);
      adam_steps.push_back(state == nullptr ? 0 : state->step());
      if (state == nullptr) continue;
      add(fmt::format("mean.{}", i), state->exp_avg());
      add(fmt::format("square.{}", i), state->exp_avg_sq());
    }
    const nlohmann::json json{{"step", step},
                              {"log", result_.log},
                              {"least", best_.empty() ? nlohmann::json() : nlohmann::json(least_)},
                              {"best_step", best_step_},
                              {"finite_step", finite_step_},
                              {"worse", worse_},
                              {"held_out_before", result_.held_out_before},
                              {"seconds", seconds()},
                              {"adam_steps", adam_steps}};
    core::write_safetensors(progress_.file, tensors, {{"state", json.dump()}});
  }

  bool restore() {
    if (progress_.file.empty() || !std::filesystem::exists(progress_.file)) return false;
    const core::Checkpoint file = core::Checkpoint::open(progress_.file);
    const nlohmann::json json = nlohmann::json::parse(file.metadata().at("state"));
    const auto read = [&](const std::string& name, const at::Tensor& like) {
      const core::TensorView& view = file.at(name);
      at::Tensor value = at::empty(view.shape, at::TensorOptions(at::kFloat));
      TORCH_CHECK(value.sizes() == like.sizes(), progress_.file, ": ", name, " is ", value.sizes());
      std::memcpy(value.mutable_data_ptr(), view.data, view.bytes);
      return value.to(like.device());
    };
    Values values;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      const at::Tensor& leaf = leaves_[i].tensor;
      values.push_back(read(fmt::format("value.{}", i), leaf));
      if (file.has(fmt::format("best.{}", i))) best_.push_back(read(fmt::format("best.{}", i), leaf));
      if (file.has(fmt::format("finite.{}", i))) finite_.push_back(read(fmt::format("finite.{}", i), leaf));
      if (!file.has(fmt::format("mean.{}", i))) continue;
      auto state = std::make_unique<AdamWParamState>();
      state->step(json["adam_steps"][i]);
      state->exp_avg(read(fmt::format("mean.{}", i), leaf));
      state->exp_avg_sq(read(fmt::format("square.{}", i), leaf));
      adam_.state()[leaf.unsafeGetTensorImpl()] = std::move(state);
    }
    put(values);
    step_ = json["step"];
    result_.log = json["log"].get<std::vector<LogRow>>();
    if (!json["least"].is_null()) least_ = json["least"];
    best_step_ = json["best_step"];
    finite_step_ = json["finite_step"];
    worse_ = json["worse"];
    result_.held_out_before = json["held_out_before"].get<std::optional<double>>();
    before_ = json["seconds"];
    return true;
  }

  using Clock = std::chrono::steady_clock;

  const QatConfig& config_;
  Training& training_;
  const std::vector<Leaf>& leaves_;
  TrainingObjective& objective_;
  const Progress& progress_;
  AdamW adam_;
  Trained result_;
  int64_t step_ = 0;
  Values best_, finite_;  // the best iterate; the last one whose loss was finite
  double least_ = 0;      // held-out loss of the best
  int64_t best_step_ = 0, finite_step_ = 0, worse_ = 0;
  bool finite_stop_ = false;
  Clock::time_point start_ = Clock::now();
  double before_ = 0;  // seconds of what was interrupted
};

}  // namespace

Trained optimize(const QatConfig& config, Training& training, TrainingObjective& objective, const Progress& progress) {
  return Optimization(config, training, objective, progress).run();
}

std::string to_text(const Trained& trained) { return nlohmann::json(trained).dump(); }

Trained trained_from_text(const std::string& text) { return nlohmann::json::parse(text).get<Trained>(); }

}  // namespace quant
