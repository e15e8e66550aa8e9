#include "quant/columns/descent.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/linalg.h"
#include "quant/columns/column_encoder.h"

namespace quant {

namespace {

constexpr double kDamp = 0.01;        // of the mean of H's diagonal
constexpr int64_t kPanel = 64;        // columns whose gradients exist at a time
constexpr double kLargestChange = 4;  // of a scale, as a factor
constexpr double kRidge = 1e-6;       // keeps the scale of a group whose levels are all zero

// H + damping, [I, I] float32 on the CPU.
at::Tensor damped(const at::Tensor& hessian) {
  at::Tensor h = hessian.cpu().to(at::kFloat).clone();
  const double mean = at::mean(h.diagonal()).item<double>();
  h.diagonal().add_(mean > 0 ? kDamp * mean : 1.0);
  return h;
}

at::Tensor row_errors(const at::Tensor& difference, const at::Tensor& h) {
  return at::sum(at::mm(difference, h) * difference, 1);  // [O]
}

// Scales [O, G] with which the levels u = ŵ / s come nearest to w: Σ_g' A_gg' s_g' = b_g with A = u_g H u_g'ᵀ and
// b = u_g H wᵀ in every row.
at::Tensor best_scales(const at::Tensor& w, const at::Tensor& levels, const at::Tensor& scale, const at::Tensor& h) {
  const int64_t O = w.size(0), G = scale.size(1), S = w.size(1) / G;
  const at::Tensor u = (levels.reshape({O, G, S}) / scale.unsqueeze(-1)).reshape(w.sizes());
  const at::Tensor error = w - levels;  // what is solved for is the change of the scales
  const at::Tensor b = (at::mm(error, h) * u).reshape({O, G, S}).sum(-1);
  const at::Tensor a = at::empty({O, G, G}, w.options());
  for (int64_t g = 0; g < G; ++g) {
    const at::Tensor part = at::mm(u.narrow(1, g * S, S), h.narrow(0, g * S, S));  // [O, I]
    a.select(1, g).copy_((part * u).reshape({O, G, S}).sum(-1));
  }
  return scale + core::solved_each(a, b, kRidge);
}

// The parameters with better scales, row by row where these lower the error.
void refit_scales(const at::Tensor& w, const WeightFormat& format, Encoded& encoded, const at::Tensor& h) {
  const int64_t O = w.size(0), I = w.size(1);
  const at::Tensor scale = format.noise_scale(encoded.parameters, O, I).cpu();
  if (!format.rescaled(encoded.parameters, scale)) return;
  const at::Tensor levels = format.decode(encoded.codes, encoded.parameters).cpu();
  const at::Tensor found = best_scales(w, levels, scale, h);
  const at::Tensor ratio = found / scale;
  const at::Tensor usable = (ratio > 1 / kLargestChange).logical_and(ratio < kLargestChange);  // not of NaN
  const at::Tensor wanted = at::where(usable, found, scale);
  const auto levels_of = [&](const Parameters& parameters) { return format.decode(encoded.codes, parameters).cpu(); };
  const Parameters tried = *format.rescaled(encoded.parameters, wanted.to(w.device()));
  const at::Tensor better = row_errors(w - levels_of(tried), h) < row_errors(w - levels, h);
  encoded.parameters = *format.rescaled(encoded.parameters, at::where(better.unsqueeze(1), wanted, scale));
}

// What choosing other levels for some columns does to the error, by rows: −2 (Δ H)_B cᵀ + c H_BB cᵀ for a change c.
at::Tensor effect(const at::Tensor& change, const at::Tensor& gradient, const at::Tensor& h) {
  return at::sum((at::mm(change, h) - 2 * gradient) * change, 1);  // [O]
}

// One pass over the codes: blocks of n columns in turn, n rows of which take what is found if it lowers their error.
void improve_codes(const at::Tensor& w, const WeightFormat& format, Encoded& encoded, const at::Tensor& h) {
  const int64_t O = w.size(0), I = w.size(1), n = column_block(format);
  const EncodeColumns encode = encoder_of(format, encoded.parameters, O, I);
  const at::Tensor codes = encoded.codes.cpu().clone();
  const at::Tensor levels = format.decode(encoded.codes, encoded.parameters).cpu().clone(), error = w - levels;
  for (int64_t first = 0; first < I; first += kPanel) {
    const int64_t last = std::min(first + kPanel, I);
    const at::Tensor gradient = at::mm(error, h.slice(1, first, last));  // Δ H: [O, panel]
    for (int64_t at = first; at < last; at += n) {
      const at::Tensor old = levels.narrow(1, at, n), here = codes.narrow(1, at, n);
      const at::Tensor own = h.narrow(0, at, n).narrow(1, at, n), slope = gradient.narrow(1, at - first, n);
      const EncodedColumns found = encode((old + slope / own.diagonal().mean()).contiguous(), at);
      at::Tensor change = found.levels.cpu() - old;
      const at::Tensor better = effect(change, slope, own).reshape({O / n, n}).sum(1) < 0;
      const at::Tensor taken = better.repeat_interleave(n).unsqueeze(1);  // [O, 1]
      change = at::where(taken, change, at::zeros_like(change));
      here.copy_(at::where(taken, found.codes.cpu(), here));
      old.add_(change);
      error.narrow(1, at, n).sub_(change);
      if (at + n < last)
        gradient.slice(1, at + n - first).addmm_(change, h.slice(0, at, at + n).slice(1, at + n, last), 1, -1);
    }
  }
  encoded.codes = codes.to(encoded.codes.device());
}

}  // namespace

Refined descended(const at::Tensor& w, const WeightFormat& format, Encoded encoded, const Statistics& x,
                  int64_t rounds) {
  const at::Tensor wide = w.cpu().to(at::kFloat), h = damped(x.hessian);
  const auto error = [&] {
    const at::Tensor levels = format.decode(encoded.codes, encoded.parameters).cpu();
    return row_errors(wide - levels, h).sum().item<double>();
  };
  const double before = error();
  for (int64_t round = 0; round < rounds; ++round) {
    refit_scales(wide, format, encoded, h);
    improve_codes(wide, format, encoded, h);
  }
  refit_scales(wide, format, encoded, h);
  const double left = before > 0 ? error() / before : 1.0;
  return {std::move(encoded), fmt::format("descent to {:.3f} of the error", left)};
}

}  // namespace quant
