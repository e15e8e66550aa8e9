// A linear map that a model calls without knowing how its weight is stored: dense, quantized, replicated.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/state.h"

namespace core {

// y = x Wᵀ + b with W: [O, I].
class Linear : public torch::nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x) = 0;  // [..., I] -> [..., O]
  virtual at::Tensor weight() const = 0;  // [O, I], dense, in the compute dtype; may be computed on demand
  // Rows of the weight, for a table that is looked up: index [...] int64 -> [..., I].
  virtual at::Tensor rows(const at::Tensor& index) const;
  virtual at::Tensor bias() const = 0;  // [O], or undefined
  virtual std::vector<State> state()
      const = 0;  // stored tensors, named relative to the module ("weight", "codes", ...)
  virtual Cost cost() const = 0;

  // Products of linears that read one input, this one the first of `all`: x [..., I] -> [..., O] of each. One that can
  // prepare the input once for all of them does so; otherwise they multiply in turn.
  virtual std::vector<at::Tensor> forward_each(const std::vector<Linear*>& all, const at::Tensor& x);

  // Products of linears side by side, this one the first of `all`, which are of one shape. x: [R, ..., I], or
  // [1, ..., I], one input for all -> [R, ..., O]. One after the other, unless a linear knows better.
  virtual at::Tensor forward_beside(const std::vector<Linear*>& all, const at::Tensor& x);
  // Whether forward_beside reads what this and `other` share only once.
  virtual bool reads_once_beside(const Linear& /*other*/) const { return false; }

  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }

 protected:
  Linear(int64_t out_features, int64_t in_features) : out_features_(out_features), in_features_(in_features) {}

 private:
  int64_t out_features_, in_features_;
};

// The weight as the checkpoint has it, in the compute dtype.
class DenseLinear : public Linear {
 public:
  // stored_bits: bits per element in the checkpoint, for the bill (the compute dtype may be wider).
  DenseLinear(at::Tensor weight, at::Tensor bias, double stored_bits);

  at::Tensor forward(const at::Tensor& x) override;
  at::Tensor weight() const override { return weight_; }
  at::Tensor bias() const override { return bias_; }
  std::vector<State> state() const override;
  Cost cost() const override;

 private:
  at::Tensor weight_, bias_;  // [O, I], [O] or undefined
  double stored_bits_;
};

// A linear that lies in a file until it is used: every use reads it anew, and drops it. So of the
// feed-forward networks and experts of a streamed model one linear is in memory at a time.
class FiledLinear : public Linear {
 public:
  using Read = std::function<std::shared_ptr<Linear>()>;
  FiledLinear(int64_t out_features, int64_t in_features, Read read)
      : Linear(out_features, in_features), read_(std::move(read)) {}

  std::shared_ptr<Linear> read() const { return read_(); }  // in memory as long as the caller keeps it
  at::Tensor forward(const at::Tensor& x) override { return read()->forward(x); }
  at::Tensor weight() const override { return read()->weight(); }
  at::Tensor bias() const override { return read()->bias(); }
  std::vector<State> state() const override { return read()->state(); }
  Cost cost() const override { return read()->cost(); }

 private:
  Read read_;
};

// Shows every input of a linear to `tap`, then lets the linear work. Calibration taps inputs by this and by nothing
// else.
class RecordingLinear : public Linear {
 public:
  using Tap = std::function<void(const at::Tensor& x)>;  // x: [..., I]
  RecordingLinear(std::shared_ptr<Linear> inner, Tap tap);

  at::Tensor forward(const at::Tensor& x) override;
  at::Tensor weight() const override { return inner_->weight(); }
  at::Tensor bias() const override { return inner_->bias(); }
  std::vector<State> state() const override { return inner_->state(); }
  Cost cost() const override { return inner_->cost(); }
  const std::shared_ptr<Linear>& inner() const { return inner_; }

 private:
  std::shared_ptr<Linear> inner_;
  Tap tap_;
};

}  // namespace core
