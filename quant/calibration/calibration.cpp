#include "quant/calibration/calibration.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/simd.h"
#include "quant/linear/swapped.h"

namespace quant {

const core::HiddenStore& calibration_stream(const core::BlockContext& context, bool propagate_error) {
  const core::HiddenStore* inputs = propagate_error ? context.inputs.quantized : context.inputs.full;
  TORCH_CHECK(inputs != nullptr, "inputs are to be measured, but the walk does not carry the stream to take them from");
  return *inputs;
}

double outlier_columns(const at::Tensor& mean_square) {
  const at::Tensor rms = at::sqrt(mean_square);
  return at::mean((rms > 3 * rms.median()).to(at::kFloat)).item<double>();
}

WeightShape Statistics::shape() const {
  return {.absmax = absmax.max().item<double>(),
          .kurtosis = kurtosis,
          .outlier_columns = quant::outlier_columns(mean_square)};
}

Statistics Statistics::to(at::Device device) const {
  Statistics moved = *this;
  for (at::Tensor* tensor : {&moved.hessian, &moved.mean_square, &moved.mean_abs, &moved.absmax, &moved.cross}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

Statistics Statistics::divided(const at::Tensor& f) const {
  Statistics divided = *this;
  if (hessian.defined()) divided.hessian = hessian / (f.unsqueeze(1) * f);
  if (mean_square.defined()) divided.mean_square = mean_square / at::square(f);
  if (mean_abs.defined()) divided.mean_abs = mean_abs / f;
  if (absmax.defined()) divided.absmax = absmax / f;
  if (cross.defined()) divided.cross = cross / (f.unsqueeze(1) * f);
  return divided;
}

Statistics Statistics::pooled(const std::vector<Statistics>& all) {
  Statistics sum;
  for (const Statistics& one : all) {
    if (one.tokens == 0) continue;
    sum.tokens += one.tokens;
    const double share = static_cast<double>(one.tokens) / static_cast<double>(sum.tokens);
    const auto mean = [&](at::Tensor& to, const at::Tensor& from) {
      if (from.defined()) to = to.defined() ? to * (1 - share) + from * share : from;
    };
    mean(sum.hessian, one.hessian);
    mean(sum.mean_square, one.mean_square);
    mean(sum.mean_abs, one.mean_abs);
    mean(sum.cross, one.cross);
    sum.absmax = sum.absmax.defined() ? at::maximum(sum.absmax, one.absmax) : one.absmax;
    sum.kurtosis += (one.kurtosis - sum.kurtosis) * share;
  }
  return sum;
}

// ---- Accumulator ----

namespace {

constexpr int64_t kChunk = 64;     // columns that are summed at once
constexpr int64_t kStretch = 128;  // rows that are summed in float

// Adds rows × kChunk (or fewer) values at x to what is known of their columns, and to the powers of all.
REFRAIN_SIMD void add_chunk(const float* x, int64_t rows, int64_t stride, int64_t columns, double* squares,
                            double* sizes, float* largest, double* powers) {
  for (int64_t first = 0; first < rows; first += kStretch) {
    std::array<float, kChunk> s1{}, s2{}, s3{}, s4{}, size{};
    for (int64_t row = first; row < std::min(first + kStretch, rows); ++row) {
      const float* v = x + row * stride;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) {
        const float square = v[j] * v[j], absolute = std::fabs(v[j]);
        s1[j] += v[j];
        s2[j] += square;
        s3[j] += square * v[j];
        s4[j] += square * square;
        size[j] += absolute;
        largest[j] = absolute > largest[j] ? absolute : largest[j];
      }
    }
    for (int64_t j = 0; j < columns; ++j) {
      squares[j] += s2[j];
      sizes[j] += size[j];
      powers[0] += s1[j];
      powers[1] += s2[j];
      powers[2] += s3[j];
      powers[3] += s4[j];
    }
  }
}

// Sums over the rows of x [m, I], the same whatever the number of threads: a chunk of columns is one thread's.
struct ColumnSums {
  at::Tensor squares, sizes, largest;  // [I] float32: Σ x², Σ |x|, max |x|
  std::array<double, 4> powers{};      // Σ x, Σ x², Σ x³, Σ x⁴ over all

  explicit ColumnSums(const at::Tensor& x) {
    const at::Tensor on_cpu = x.cpu();
    const int64_t m = x.size(0), I = x.size(1), chunks = (I + kChunk - 1) / kChunk;
    std::vector<double> square(I), size(I);
    std::vector<float> most(I);
    std::vector<std::array<double, 4>> of_chunk(chunks);
    const auto* values = on_cpu.const_data_ptr<float>();
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t j = c * kChunk;
        add_chunk(values + j, m, I, std::min(kChunk, I - j), &square[j], &size[j], &most[j], of_chunk[c].data());
      }
    });
    for (const auto& part : of_chunk) {
      for (size_t i = 0; i < 4; ++i) powers[i] += part[i];
    }
    const auto floats = [&](const auto& from) {
      at::Tensor to = at::empty({I}, at::kFloat);
      std::copy(from.begin(), from.end(), to.mutable_data_ptr<float>());
      return to.to(x.device());
    };
    squares = floats(square);
    sizes = floats(size);
    largest = floats(most);
  }
};

}  // namespace

void Accumulator::add(const at::Tensor& input, const at::Tensor& full) {
  const at::Tensor x = input.reshape({-1, input.size(-1)}).to(at::kFloat);  // [m, I]
  TORCH_CHECK(full.defined() == needs_.cross, "inputs in full precision are there where `cross` is asked for");
  const int64_t m = x.size(0);
  if (m == 0) return;  // an expert that no token of this batch was sent to
  const int64_t features = x.size(1), before = sums_.tokens;
  if (before == 0) {
    sums_.mean_square = at::zeros({features}, x.options());
    sums_.absmax = at::zeros({features}, x.options());
    if (needs_.mean_abs) sums_.mean_abs = at::zeros({features}, x.options());
    if (needs_.hessian) sums_.hessian = at::zeros({features, features}, x.options());
    if (needs_.cross) sums_.cross = at::zeros({features, features}, x.options());
  }
  sums_.tokens += m;
  const double keep = static_cast<double>(before) / static_cast<double>(sums_.tokens);
  const double share = 1.0 / static_cast<double>(sums_.tokens);
  if (needs_.hessian) sums_.hessian.addmm_(x.t(), x, keep, share);
  if (needs_.cross) {
    TORCH_CHECK(full.numel() == x.numel(), "the two models showed a linear different tokens");
    sums_.cross.addmm_((full.reshape(x.sizes()).to(at::kFloat) - x).t(), x, keep, share);
  }
  ColumnSums columns(x.contiguous());
  sums_.mean_square.mul_(keep).add_(columns.squares, share);
  if (needs_.mean_abs) sums_.mean_abs.mul_(keep).add_(columns.sizes, share);
  sums_.absmax = at::maximum(sums_.absmax, columns.largest);
  for (size_t i = 0; i < 4; ++i) powers_[i] += columns.powers[i];
}

Statistics Accumulator::result() const {
  Statistics result = sums_;
  if (result.tokens == 0) return result;
  const double values = static_cast<double>(result.tokens) * static_cast<double>(result.mean_square.numel());
  const double m1 = powers_[0] / values, m2 = powers_[1] / values, m3 = powers_[2] / values, m4 = powers_[3] / values;
  const double variance = m2 - m1 * m1;
  const double fourth = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1 * m1 * m1 * m1;
  result.kurtosis = variance > 0 ? fourth / (variance * variance) : 0.0;
  return result;
}

// ---- the pass ----

namespace {

void record(Swapped& recorders, core::Slot& slot, core::RecordingLinear::Tap tap) {
  recorders.put(slot, std::make_shared<core::RecordingLinear>(slot.pointer(), std::move(tap)));
}

// Stands in for a linear whose outputs nobody looks at.
class NoOutputs : public core::Linear {
 public:
  explicit NoOutputs(std::shared_ptr<core::Linear> inner)
      : Linear(inner->out_features(), inner->in_features()), inner_(std::move(inner)) {}
  at::Tensor forward(const at::Tensor& x) override {
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.back() = out_features();
    return at::zeros({1}, x.options()).expand(sizes);
  }
  at::Tensor weight() const override { return inner_->weight(); }
  at::Tensor bias() const override { return inner_->bias(); }
  std::vector<core::State> state() const override { return inner_->state(); }
  core::Cost cost() const override { return inner_->cost(); }

 private:
  std::shared_ptr<core::Linear> inner_;
};

// Spares the products whose outputs no tap sees: those from the last tapped group on, and those of experts without a
// tap, whose outputs no other expert reads.
void spare_unseen(Swapped& recorders, core::Block& block, const std::vector<core::Slot*>& tapped) {
  const std::vector<core::LinearGroup> groups = block.groups();
  const auto taps = [&](const core::LinearGroup& group) {
    return std::any_of(group.slots.begin(), group.slots.end(),
                       [&](auto* slot) { return std::count(tapped.begin(), tapped.end(), slot) > 0; });
  };
  bool behind = true;                  // the last tapped group
  const core::Slot* needed = nullptr;  // the inputs of a tapped group are made of its outputs
  for (auto group = groups.rbegin(); group != groups.rend(); ++group) {
    const bool is_tapped = taps(*group), is_needed = std::count(group->slots.begin(), group->slots.end(), needed) > 0;
    if (behind || (!group->pool.empty() && !is_needed)) {
      for (core::Slot* slot : group->slots) recorders.put(*slot, std::make_shared<NoOutputs>(slot->pointer()));
    }
    if (is_tapped) needed = group->producer.slot;
    behind = behind && !is_tapped;
  }
}

void run(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs) {
  at::NoGradGuard no_gradient;
  for (int64_t i = 0; i < inputs.batches(); ++i) block.forward(inputs.get(i), pass);
}

std::vector<core::Slot*> slots_of(const std::vector<Tap>& taps) {
  std::vector<core::Slot*> slots;
  for (const Tap& tap : taps) slots.push_back(tap.slot);
  return slots;
}

std::vector<Statistics> results_of(const std::vector<Accumulator>& sums) {
  std::vector<Statistics> results;
  for (const Accumulator& sum : sums) results.push_back(sum.result());
  return results;
}

at::Tensor rotated(const Tap& tap, const at::Tensor& x) { return tap.rotation ? tap.rotation->input(x) : x; }

// The input of a tap as the codes of the linear are multiplied with it.
at::Tensor seen(const Tap& tap, const at::Tensor& x) {
  if (tap.watch) tap.watch(x);
  return tap.input ? tap.input->apply(rotated(tap, x)) : rotated(tap, x);
}

}  // namespace

std::vector<Statistics> collect(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
                                const std::vector<Tap>& taps) {
  std::vector<Accumulator> sums;
  for (const Tap& tap : taps) sums.emplace_back(tap.needs);
  {
    Swapped recorders;
    spare_unseen(recorders, block, slots_of(taps));
    for (size_t i = 0; i < taps.size(); ++i) {
      record(recorders, *taps[i].slot,
             [&sum = sums[i], &tap = taps[i]](const at::Tensor& x) { sum.add(seen(tap, x)); });
    }
    run(block, pass, inputs);
  }
  return results_of(sums);
}

// Batch by batch, the block as it is first: its router chooses the experts of both passes.
std::vector<Statistics> collect_beside(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
                                       const FullPrecision& full, const std::vector<Tap>& taps) {
  at::NoGradGuard no_gradient;
  std::vector<Accumulator> sums;
  for (const Tap& tap : taps) sums.emplace_back(tap.needs);
  for (int64_t batch = 0; batch < inputs.batches(); ++batch) {
    std::vector<at::Tensor> of_batch(taps.size());  // undefined: of an expert that no token was sent to
    at::Tensor experts;
    core::Pass with_experts = pass;
    with_experts.experts = &experts;
    {
      Swapped recorders;
      spare_unseen(recorders, block, slots_of(taps));
      for (size_t i = 0; i < taps.size(); ++i) {
        record(recorders, *taps[i].slot, [&x_q = of_batch[i], &tap = taps[i]](const at::Tensor& x) {
          TORCH_CHECK(!x_q.defined(), tap.slot->path(), " ran twice in one pass");
          x_q = seen(tap, x);
        });
      }
      block.forward(inputs.get(batch), with_experts);
    }
    Swapped originals;
    for (const auto& [slot, linear] : full.linears) originals.put(*slot, linear);
    spare_unseen(originals, block, slots_of(taps));
    for (size_t i = 0; i < taps.size(); ++i) {
      record(originals, *taps[i].slot, [&x_q = of_batch[i], &sum = sums[i], &tap = taps[i]](const at::Tensor& x) {
        TORCH_CHECK(x_q.defined(), tap.slot->path(), " runs in full precision only");
        sum.add(std::exchange(x_q, {}), tap.needs.cross ? rotated(tap, x) : at::Tensor());
      });
    }
    block.forward(full.inputs.get(batch), with_experts);
  }
  return results_of(sums);
}

void collect(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
             const std::vector<core::Slot*>& slots, std::vector<InputHistogram>& histograms) {
  Swapped recorders;
  spare_unseen(recorders, block, slots);
  for (size_t i = 0; i < slots.size(); ++i)
    record(recorders, *slots[i], [&histogram = histograms[i]](const at::Tensor& x) { histogram.add(x); });
  run(block, pass, inputs);
}

}  // namespace quant
