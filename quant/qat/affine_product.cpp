#include "quant/qat/affine_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/nn/fused.h"
#include "quant/grids/draws.h"

namespace quant {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTile = 512;  // rows of the weight that exist in float at a time

// ---- loops over one tile, G groups of S columns a row ----

// w = s (k − z + n). noise: null for none.
REFRAIN_SIMD void decode_row(const uint8_t* code, const float* scale, const float* shift, const float* noise,
                             int64_t groups, int64_t size, float* w) {
  for (int64_t g = 0; g < groups; ++g, code += size, w += size) {
    const float s = scale[g], z = shift[g];
    if (noise == nullptr) {
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) w[j] = (static_cast<float>(code[j]) - z) * s;
    } else {
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) w[j] = (static_cast<float>(code[j]) - z + noise[j]) * s;
      noise += size;
    }
  }
}

REFRAIN_SIMD void reduce_row(const float* dw, const uint8_t* code, const float* scale, const float* shift,
                             const float* noise, int64_t groups, int64_t size, float* dscale, float* dshift) {
  for (int64_t g = 0; g < groups; ++g, code += size, dw += size) {
    const float z = shift[g];
    float with_level = 0, plain = 0;
    if (noise == nullptr) {
#pragma omp simd reduction(+ : with_level, plain)
      for (int64_t j = 0; j < size; ++j) {
        with_level += dw[j] * (static_cast<float>(code[j]) - z);
        plain += dw[j];
      }
    } else {
#pragma omp simd reduction(+ : with_level, plain)
      for (int64_t j = 0; j < size; ++j) {
        with_level += dw[j] * (static_cast<float>(code[j]) - z + noise[j]);
        plain += dw[j];
      }
      noise += size;
    }
    dscale[g] = with_level;
    dshift[g] = -scale[g] * plain;
  }
}

// Some rows of the weight. noise: undefined for none.
struct Tile {
  at::Tensor codes, scale, shift, noise;  // [n, I] uint8, [n, G], [n, G], [n, I]

  bool plain() const { return codes.is_cpu() && scale.is_contiguous() && shift.is_contiguous(); }
  const float* noise_row(int64_t row) const {
    return noise.defined() ? noise.const_data_ptr<float>() + row * codes.size(1) : nullptr;
  }
  void for_each_row(const std::function<void(int64_t)>& work) const {
    at::parallel_for(0, codes.size(0), 1 + core::kGrain / codes.size(1), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) work(row);
    });
  }
  at::Tensor levels() const {  // k − z + n, [n, G, S]
    const at::Tensor steps = codes.reshape({codes.size(0), scale.size(1), -1}).to(at::kFloat) - shift.unsqueeze(-1);
    return noise.defined() ? steps + noise.reshape(steps.sizes()) : steps;
  }

  at::Tensor decoded() const {  // [n, I] float32
    if (!plain()) return (levels() * scale.unsqueeze(-1)).reshape(codes.sizes());
    const int64_t I = codes.size(1), G = scale.size(1);
    at::Tensor w = at::empty(codes.sizes(), scale.options());
    const auto* code = codes.const_data_ptr<uint8_t>();
    const auto *s = scale.const_data_ptr<float>(), *z = shift.const_data_ptr<float>();
    auto* to = w.mutable_data_ptr<float>();
    for_each_row([&](int64_t row) {
      decode_row(code + row * I, s + row * G, z + row * G, noise_row(row), G, I / G, to + row * I);
    });
    return w;
  }

  // dw: [n, I] float32 -> dscale, dshift: [n, G], contiguous rows of the whole.
  void reduce(const at::Tensor& dw, at::Tensor dscale, at::Tensor dshift) const {
    const int64_t I = codes.size(1), G = scale.size(1);
    if (!plain()) {
      const at::Tensor grouped = dw.reshape({codes.size(0), G, -1});
      dscale.copy_((grouped * levels()).sum(-1));
      dshift.copy_(-scale * grouped.sum(-1));
      return;
    }
    const auto *from = dw.const_data_ptr<float>(), *s = scale.const_data_ptr<float>(),
               *z = shift.const_data_ptr<float>();
    const auto* code = codes.const_data_ptr<uint8_t>();
    auto *ds = dscale.mutable_data_ptr<float>(), *dz = dshift.mutable_data_ptr<float>();
    for_each_row([&](int64_t row) {
      reduce_row(from + row * I, code + row * I, s + row * G, z + row * G, noise_row(row), G, I / G, ds + row * G,
                 dz + row * G);
    });
  }
};

// The weight, of which tiles are asked for.
struct Weight {
  at::Tensor packed;  // [O, bytes]
  int64_t columns, bits;
  at::Tensor scale, shift, noise;  // [O, G], [O, G], [O, I]

  void for_each_tile(const std::function<void(const Tile&, int64_t first, int64_t rows)>& work) const {
    for (int64_t first = 0; first < packed.size(0); first += kTile) {
      const int64_t rows = std::min(kTile, packed.size(0) - first);
      const core::Codes codes = core::Codes::from_packed(packed.narrow(0, first, rows), columns, bits);
      work({codes.unpack(), scale.narrow(0, first, rows), shift.narrow(0, first, rows),
            noise.defined() ? noise.narrow(0, first, rows) : at::Tensor()},
           first, rows);
    }
  }
};

struct AffineProduct : torch::autograd::Function<AffineProduct> {
  // x: [N, I] -> [N, O].
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                            const at::Tensor& packed, int64_t columns, int64_t bits, const TrainNoise& noise) {
    ctx->save_for_backward({x, scale, shift, packed});
    ctx->saved_data["columns"] = columns;
    ctx->saved_data["bits"] = bits;
    ctx->saved_data["path"] = noise.place.path;
    ctx->saved_data["seed"] = static_cast<int64_t>(noise.place.seed);
    ctx->saved_data["step"] = noise.step;
    ctx->saved_data["sigma"] = noise.sigma;
    at::Tensor y = at::empty({x.size(0), packed.size(0)}, x.options());
    const Weight weight{packed, columns, bits, scale, shift, noise.draw(packed.size(0), columns, packed.device())};
    weight.for_each_tile([&](const Tile& tile, int64_t first, int64_t rows) {
      at::Tensor part = y.narrow(1, first, rows);
      at::mm_out(part, x, tile.decoded().to(x.scalar_type()).t());
    });
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradient) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &scale = saved[1], &shift = saved[2], &packed = saved[3];
    auto& data = ctx->saved_data;
    const int64_t columns = data["columns"].toInt(), bits = data["bits"].toInt();
    const TrainNoise noise{{data["path"].toStringRef(), static_cast<uint64_t>(data["seed"].toInt())},
                           data["step"].toInt(),
                           data["sigma"].toDouble()};
    const Weight weight{packed, columns, bits, scale, shift, noise.draw(packed.size(0), columns, packed.device())};
    const at::Tensor dy = gradient[0].contiguous();  // [N, O]
    at::Tensor dx = ctx->needs_input_grad(0) ? at::zeros_like(x) : at::Tensor();
    at::Tensor dscale = at::empty_like(scale), dshift = at::empty_like(shift);
    weight.for_each_tile([&](const Tile& tile, int64_t first, int64_t rows) {
      const at::Tensor part = dy.narrow(1, first, rows);
      if (dx.defined()) dx.addmm_(part, tile.decoded().to(x.scalar_type()));
      const at::Tensor dw = at::mm(part.t(), x).to(at::kFloat);  // [n, I]
      tile.reduce(dw, dscale.narrow(0, first, rows), dshift.narrow(0, first, rows));
    });
    return {dx, dscale, dshift, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor TrainNoise::draw(int64_t rows, int64_t columns, at::Device device) const {
  if (sigma == 0) return {};
  return normal_draw(place, "train noise", static_cast<uint64_t>(step), rows, columns).mul_(sigma).to(device);
}

at::Tensor affine_product(const at::Tensor& x, const core::Codes& codes, const at::Tensor& scale,
                          const at::Tensor& shift, const TrainNoise& noise) {
  TORCH_CHECK(scale.sizes() == shift.sizes() && scale.size(0) == codes.rows() && codes.columns() % scale.size(1) == 0,
              "affine_product: scales ", scale.sizes(), ", shifts ", shift.sizes(), " for ", codes.rows(), " by ",
              codes.columns(), " codes");
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = codes.rows();
  return AffineProduct::apply(x.reshape({-1, codes.columns()}), scale.contiguous(), shift.contiguous(), codes.packed(),
                              codes.columns(), codes.bits(), noise)
      .reshape(shape);
}

at::Tensor affine_product_reference(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                    const at::Tensor& shift, const at::Tensor& noise) {
  at::Tensor steps =
      codes.reshape({codes.size(0), scale.size(1), -1}).to(x.scalar_type()) - shift.unsqueeze(-1);  // [O, G, S]
  if (noise.defined()) steps = steps + noise.reshape(steps.sizes());
  return at::linear(x, (steps * scale.unsqueeze(-1)).reshape(codes.sizes()));
}

}  // namespace quant
