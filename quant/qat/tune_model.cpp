#include "quant/qat/tune_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>

#include "quant/qat/batches.h"

namespace quant {

std::vector<torch::nn::Module*> trainable_modules(core::Model& model) {
  std::vector<torch::nn::Module*> modules;
  for (const auto& child : model.children()) {
    if (dynamic_cast<core::Slot*>(child.get()) == nullptr) modules.push_back(child.get());
  }
  return modules;
}

namespace {

class EndToEnd : public TrainingObjective {
 public:
  EndToEnd(const QatConfig& config, core::Model& model, const ModelTrainingData& data, uint64_t seed)
      : config_(config),
        model_(model),
        data_(data),
        objective_(config.model_objective()),
        batches_(batches_of(config.steps, config.batch, data.text.ids.size(0), seed)) {}

  double backward(int64_t step) override {
    const std::vector<int64_t>& windows = batches_[step];
    const at::Tensor ids = data_.text.ids.index_select(0, at::tensor(windows));
    return config_.recompute ? learn_recomputed(ids, windows) : learn_at_once(ids, windows);
  }

  std::optional<double> held_out_loss() override {
    const TeacherText& text = data_.held_out;
    if (!text.ids.defined()) return std::nullopt;
    const at::NoGradGuard no_gradient;
    double sum = 0;
    for (int64_t first = 0; first < text.ids.size(0); first += config_.batch) {
      std::vector<int64_t> windows(std::min(config_.batch, text.ids.size(0) - first));
      std::iota(windows.begin(), windows.end(), first);
      const at::Tensor ids = text.ids.narrow(0, first, static_cast<int64_t>(windows.size()));
      const at::Tensor hidden = states(ids);
      sum += static_cast<double>(windows.size()) *
             head_loss(model_, hidden, taught(text, windows), ids, objective_, data_.teacher, nullptr);
    }
    return sum / static_cast<double>(text.ids.size(0));
  }

 private:
  at::Tensor states(const at::Tensor& ids) const { return model_.states(ids.to(model_.embedding().device())); }
  at::Tensor advance(size_t step, const at::Tensor& hidden, const core::KeyValues* given, core::KeyValues* kept) const {
    return model_.run(model_.plan()[step], hidden, {.step = static_cast<int64_t>(step), .given = given, .kept = kept});
  }
  // [B, T, D]
  at::Tensor taught(const TeacherText& text, const std::vector<int64_t>& windows) const {
    if (!text.taught) return {};
    std::vector<at::Tensor> all;
    for (const int64_t window : windows) all.push_back(text.taught(window));
    return at::stack(all);
  }

  double learn_at_once(const at::Tensor& ids, const std::vector<int64_t>& windows) const {
    const c10::AutoGradMode gradients(true);
    const at::Tensor hidden = states(ids);
    at::Tensor gradient;
    const double loss =
        head_loss(model_, hidden, taught(data_.text, windows), ids, objective_, data_.teacher, &gradient);
    if (std::isfinite(loss)) hidden.backward(gradient);
    return loss;
  }

  // The same with the inputs of the steps of the plan kept, and nothing else but the keys that other steps read: each
  // runs again before its backward pass. Gradients of keys reach the step that made them, which comes later.
  double learn_recomputed(const at::Tensor& ids, const std::vector<int64_t>& windows) const {
    const core::Plan& plan = model_.plan();
    std::vector<at::Tensor> inputs;
    std::vector<core::KeyValues> keys(plan.size()), of_keys(plan.size());  // of_keys: their gradients
    at::Tensor hidden;
    {
      const at::NoGradGuard no_gradient;
      hidden = model_.embed(ids.to(model_.embedding().device()));
      for (size_t i = 0; i < plan.size(); ++i) {
        inputs.push_back(hidden);
        hidden = advance(i, hidden, given(i, keys), is_read(i) ? &keys[i] : nullptr);
      }
    }
    at::Tensor gradient;
    const double loss =
        head_loss(model_, hidden, taught(data_.text, windows), ids, objective_, data_.teacher, &gradient);
    if (!std::isfinite(loss)) return loss;
    const c10::AutoGradMode gradients(true);
    for (size_t i = inputs.size(); i-- > 0;) {
      const at::Tensor x = std::exchange(inputs[i], {}).detach().set_requires_grad(i > 0);
      core::KeyValues read, made;
      const core::KeyValues* of_other = given(i, keys);
      if (of_other != nullptr)
        read = {of_other->k.detach().set_requires_grad(true), of_other->v.detach().set_requires_grad(true)};
      const at::Tensor y = advance(i, x, of_other != nullptr ? &read : nullptr, is_read(i) ? &made : nullptr);
      backward({y, made.k, made.v}, {gradient, of_keys[i].k, of_keys[i].v});
      gradient = x.grad();
      if (of_other == nullptr) continue;
      core::KeyValues& sum = of_keys[plan[i].kv];
      add(sum.k, read.k.grad());
      add(sum.v, read.v.grad());
    }
    return loss;
  }

  bool is_read(size_t step) const {
    return core::last_reader(model_.plan(), static_cast<int64_t>(step)) > static_cast<int64_t>(step);
  }
  const core::KeyValues* given(size_t step, const std::vector<core::KeyValues>& keys) const {
    const int64_t from = model_.plan()[step].kv;
    return from == core::Step::kOwn ? nullptr : &keys[from];
  }
  static void add(at::Tensor& sum, const at::Tensor& more) { sum = sum.defined() ? sum + more : more; }
  // Of those that depend on anything, with gradients that are known.
  static void backward(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& gradients) {
    std::vector<at::Tensor> roots, known;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].defined() || !outputs[i].requires_grad() || !gradients[i].defined()) continue;
      roots.push_back(outputs[i]);
      known.push_back(gradients[i]);
    }
    if (!roots.empty()) torch::autograd::backward(roots, known);
  }

  const QatConfig& config_;
  core::Model& model_;
  const ModelTrainingData& data_;
  std::string objective_;
  std::vector<std::vector<int64_t>> batches_;
};

}  // namespace

Trained tune_model(const QatConfig& config, core::Model& model, Training& training, const ModelTrainingData& data,
                   uint64_t seed, const Progress& progress) {
  EndToEnd end_to_end(config, model, data, seed);
  return optimize(config, training, end_to_end, progress);
}

}  // namespace quant
