#include "quant/qat/head_loss.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/nn/cross_entropy.h"

namespace quant {

namespace {

double hidden_loss(const at::Tensor& hidden, const at::Tensor& taught, at::Tensor* gradient) {
  const at::Tensor difference = hidden.to(at::kFloat) - taught.to(at::kFloat);
  const double size = at::square(taught.to(at::kFloat)).mean().item<double>();
  const double loss = at::square(difference).mean().item<double>() / size;
  if (gradient != nullptr)
    *gradient = (difference * (2 / (size * static_cast<double>(hidden.numel())))).to(hidden.scalar_type());
  return loss;
}

}  // namespace

double head_loss(core::Model& model, const at::Tensor& hidden, const at::Tensor& taught, const at::Tensor& ids,
                 const std::string& objective, const Teacher& teacher, at::Tensor* gradient, int64_t logits_at_once) {
  const at::Tensor states = hidden.detach();
  if (objective == "hidden") return hidden_loss(states, taught, gradient);
  const int64_t B = ids.size(0), T = ids.size(1), V = model.shape().vocabulary, count = B * (T - 1);
  const auto rows = [&](const at::Tensor& x) { return x.slice(1, 0, T - 1).reshape({count, -1}); };  // [B · (T−1), D]
  const at::Tensor x = rows(states), target = ids.slice(1, 1, T).reshape({-1}).to(x.device());
  const at::Tensor full = objective == "kl" ? rows(taught.to(x.device())) : at::Tensor();
  at::Tensor dx = gradient != nullptr ? at::empty_like(x) : at::Tensor();
  const int64_t chunk = std::max<int64_t>(64, logits_at_once / V);
  double sum = 0;
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t n = std::min(chunk, count - first);
    const at::Tensor wanted = target.narrow(0, first, n);
    const at::Tensor p = full.defined() ? teacher.logits(full.narrow(0, first, n)) : at::Tensor();  // [n, V]
    const c10::AutoGradMode gradients(gradient != nullptr);
    const at::Tensor part = x.narrow(0, first, n).detach().set_requires_grad(gradient != nullptr);
    const at::Tensor logits = model.logits(part);  // [n, V]
    const at::Tensor values = logits.detach();
    const at::Tensor losses =
        p.defined() ? core::divergence(p, values, wanted).kl : core::cross_entropy(values, wanted);
    sum += losses.to(at::kFloat).sum().item<double>();
    if (gradient == nullptr) continue;
    at::Tensor d;  // of the mean loss with respect to logits: (q − p) / count
    {
      const at::NoGradGuard no_gradient;
      d = at::softmax(values, -1, at::kFloat);
      if (p.defined()) {
        d.sub_(at::softmax(p, -1, at::kFloat));
      } else {
        d.scatter_add_(1, wanted.unsqueeze(1), at::full({n, 1}, -1.0, d.options()));
      }
      d.div_(static_cast<double>(count));
    }
    logits.backward(d.to(logits.scalar_type()));
    dx.narrow(0, first, n).copy_(part.grad());
  }
  if (gradient != nullptr) *gradient = at::constant_pad_nd(dx.reshape({B, T - 1, -1}), {0, 0, 0, 1});
  return sum / static_cast<double>(count);
}

}  // namespace quant
