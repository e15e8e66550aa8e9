#include "quant/qat/decoded_product.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace quant {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Carries the function through saved_data, which holds no functions.
struct Held : torch::CustomClassHolder {
  explicit Held(DecodeWeight decode) : decode(std::move(decode)) {}
  DecodeWeight decode;
};

struct DecodedProduct : torch::autograd::Function<DecodedProduct> {
  // x: [N, I] -> [N, O].
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList parameters,
                            const DecodeWeight& decode) {
    variable_list saved{x};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["decode"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(decode));
    return at::mm(x, decode(parameters.vec()).to(x.scalar_type()).t());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradient) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const auto held = c10::static_intrusive_pointer_cast<Held>(ctx->saved_data["decode"].toCapsule());
    variable_list parameters, wanted;
    for (size_t i = 1; i < saved.size(); ++i) {
      const bool trained = ctx->needs_input_grad(i);
      parameters.push_back(saved[i].detach().set_requires_grad(trained));
      if (trained) wanted.push_back(parameters.back());
    }
    variable_list found(1);  // of x
    at::Tensor w;
    {
      const c10::AutoGradMode gradients(true);
      w = held->decode(parameters).to(x.scalar_type());
    }
    if (ctx->needs_input_grad(0)) found[0] = at::mm(gradient[0], w.detach());
    variable_list of_wanted;
    if (!wanted.empty()) of_wanted = torch::autograd::grad({w}, wanted, {at::mm(gradient[0].t(), x)});
    size_t next = 0;
    for (const at::Tensor& p : parameters) found.push_back(p.requires_grad() ? of_wanted[next++] : at::Tensor());
    found.emplace_back();  // of decode
    return found;
  }
};

}  // namespace

at::Tensor decoded_product(const at::Tensor& x, const std::vector<at::Tensor>& parameters, const DecodeWeight& decode) {
  std::vector<int64_t> shape = x.sizes().vec();
  const at::Tensor y = DecodedProduct::apply(x.reshape({-1, x.size(-1)}), at::TensorList(parameters), decode);
  shape.back() = y.size(1);
  return y.reshape(shape);
}

}  // namespace quant
