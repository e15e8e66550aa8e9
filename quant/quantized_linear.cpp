#include "quant/quantized_linear.h"

#include <ATen/ATen.h>

namespace quant {

QuantizedLinear::QuantizedLinear(std::shared_ptr<const Decoder> decoder, Encoded encoded, at::Tensor bias,
                                 int64_t bias_bits, at::ScalarType compute_dtype)
    : Linear(encoded.codes.size(0), encoded.codes.size(1)),
      decoder_(std::move(decoder)),
      codes_(core::Codes::pack(encoded.codes, decoder_->code_bits())),
      parameters_(std::move(encoded.parameters)),
      bias_bits_(bias_bits),
      compute_dtype_(compute_dtype) {
  register_buffer("codes", codes_.packed());
  for (const Parameter& p : parameters_) {
    if (p.kind == core::Kind::zero_codes) {
      register_buffer(p.name, p.tensor);
    } else {
      register_parameter(p.name, p.tensor, /*requires_grad=*/false);
    }
  }
  if (bias.defined()) bias_ = register_parameter("bias", std::move(bias), /*requires_grad=*/false);
}

at::Tensor QuantizedLinear::forward(const at::Tensor& x) { return at::linear(x, weight(), bias_); }

at::Tensor QuantizedLinear::weight() const { return decoder_->decode(codes_.unpack(), parameters_).to(compute_dtype_); }

std::vector<core::State> QuantizedLinear::state() const {
  std::vector<core::State> all{{"codes", codes_.packed(), core::Kind::codes}};
  for (const Parameter& p : parameters_) all.push_back({p.name, p.tensor, p.kind});
  if (bias_.defined()) all.push_back({"bias", bias_, core::Kind::bias});
  return all;
}

core::Cost QuantizedLinear::cost() const {
  const int64_t weights = codes_.rows() * codes_.columns();
  const int64_t bias = bias_.defined() ? bias_.numel() * bias_bits_ : 0;
  const int64_t parameters = parameter_bits(parameters_);
  return {.weights = weights,
          .code_bits = codes_.stored_bits(),
          .parameter_bits = parameters,
          .dense_bits = bias,
          .macs = weights,
          .bytes_read = (codes_.stored_bits() + parameters + bias) / 8};
}

}  // namespace quant
