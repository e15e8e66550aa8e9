#include "core/linalg.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

namespace core {

namespace {

constexpr int64_t kPanel = 256;  // columns of an inverse, or rows of a product, that are solved for at a time

// J (P H Pᵀ + diag(added)) J in double, J the reversal of rows: [I, I], column-major (it is symmetric).
at::Tensor reversed(const at::Tensor& h, const std::vector<int64_t>& order, const std::vector<double>& added) {
  const int64_t n = h.size(0);
  const at::Tensor source = h.cpu().contiguous();
  at::Tensor a = at::empty({n, n}, source.options().dtype(at::kDouble));
  const auto* from = source.const_data_ptr<float>();
  auto* to = a.mutable_data_ptr<double>();
  at::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = from + order[n - 1 - i] * n;
      for (int64_t j = 0; j < n; ++j) to[i * n + j] = row[order[n - 1 - j]];
      to[i * n + i] += added[n - 1 - i];
    }
  });
  return a.t();
}

// Moves rows and columns from `w` on of the column-major [m, m] at `data` to its beginning: [m − w, m − w],
// column-major.
void drop_first(double* data, int64_t m, int64_t w) {
  const int64_t left = m - w;
  for (int64_t j = 0; j < left; ++j) std::memmove(data + j * left, data + (j + w) * m + w, left * sizeof(double));
}

}  // namespace

double sum_of_squares(const at::Tensor& x) { return at::sum(at::square(x.cpu()), at::kDouble).item<double>(); }

// With A = P H Pᵀ + diag(added) and J A J = L Lᵀ: A = R Rᵀ for the upper triangular R = J L J, so A⁻¹ = R⁻ᵀ R⁻¹ and
// U = R⁻¹ = J L⁻¹ J. One factorization and one triangular inverse; the inverse of A is never formed. Besides H, memory
// holds L in double and U in float: what is left of L is moved together after each panel, so that no solver copies it.
std::optional<at::Tensor> inverse_factor(const at::Tensor& h, const std::vector<int64_t>& order,
                                         const std::vector<double>& added) {
  const int64_t n = h.size(0);
  TORCH_CHECK(h.dim() == 2 && h.size(1) == n && static_cast<int64_t>(order.size()) == n && order.size() == added.size(),
              "inverse_factor: ", h.sizes(), " with an order of ", order.size(), " and ", added.size(), " additions");
  at::Tensor l = reversed(h, order, added);
  at::Tensor info = at::empty({}, l.options().dtype(at::kInt));
  at::linalg_cholesky_ex_out(l, info, l);  // in place
  if (info.item<int>() != 0) return std::nullopt;
  at::Tensor u = at::zeros({n, n}, l.options().dtype(at::kFloat));
  for (int64_t first = 0; first < n; first += kPanel) {  // columns first … last of L⁻¹; they are zero above `first`
    const int64_t last = std::min(first + kPanel, n);
    at::Tensor unit = at::zeros({n - first, last - first}, l.options());
    unit.slice(0, 0, last - first).fill_diagonal_(1.0);
    const at::Tensor below = l.as_strided({n - first, n - first}, {1, n - first});  // rows and columns from `first` on
    const at::Tensor x = at::linalg_solve_triangular(below, unit, /*upper=*/false);
    u.slice(0, 0, n - first).slice(1, n - last, n - first).copy_(x.flip({0, 1}));
    drop_first(l.mutable_data_ptr<double>(), n - first, last - first);
  }
  return u.to(h.device());
}

at::Tensor solved_each(const at::Tensor& a, const at::Tensor& b, double ridge) {
  const int64_t n = a.size(0), G = a.size(1), rows = std::max<int64_t>(1, (int64_t{1} << 22) / (G * G));
  at::Tensor found = at::empty({n, G}, a.options());
  for (int64_t first = 0; first < n; first += rows) {
    const int64_t count = std::min(rows, n - first);
    const at::Tensor part = a.narrow(0, first, count).to(at::kDouble);
    at::Tensor diagonal = part.diagonal(0, 1, 2);  // [n, G]
    const at::Tensor mean = diagonal.mean(1, /*keepdim=*/true);
    diagonal.add_(at::where(mean > 0, mean * ridge, at::ones_like(mean)));
    found.narrow(0, first, count)
        .copy_(at::linalg_solve(part, b.narrow(0, first, count).to(at::kDouble).unsqueeze(-1)).squeeze(-1));
  }
  return found;
}

std::optional<at::Tensor> product_over(const at::Tensor& a, const at::Tensor& b, const at::Tensor& h, double added) {
  const int64_t O = a.size(0), I = a.size(1);
  TORCH_CHECK(b.sizes() == h.sizes() && h.size(0) == I && h.size(1) == I, "product_over: ", a.sizes(), ", ", b.sizes(),
              ", ", h.sizes());
  at::Tensor l = h.cpu().to(at::kDouble);
  l.diagonal().add_(added);
  l = l.t();  // column-major, which LAPACK works on in place; it is symmetric
  at::Tensor info = at::empty({}, l.options().dtype(at::kInt));
  at::linalg_cholesky_ex_out(l, info, l);
  if (info.item<int>() != 0) return std::nullopt;
  const at::Tensor right = b.cpu().to(at::kDouble), left = a.cpu().to(at::kFloat);
  at::Tensor product = at::empty({O, I}, left.options());
  for (int64_t first = 0; first < O; first += kPanel) {  // rows at a time
    const int64_t count = std::min(kPanel, O - first);
    const at::Tensor rows = at::mm(left.narrow(0, first, count).to(at::kDouble), right);  // [n, I]
    product.narrow(0, first, count).copy_(at::cholesky_solve(rows.t(), l).t());
  }
  return product.to(a.device());
}

}  // namespace core
