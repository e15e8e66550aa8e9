#include "export/gguf/tensors.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <cstring>

#include "core/error.h"
#include "core/io/ggml_encode.h"
#include "export/gguf/folded.h"
#include "export/gguf/rounded_rows.h"
#include "quant/linear/quantized_linear.h"

namespace exports {

namespace {

using core::GgmlType;
using core::GgufPlace;
using Bytes = std::vector<std::byte>;

size_t row_bytes(const GgmlType& type, int64_t columns) {
  return static_cast<size_t>(columns / type.block) * type.block_bytes;
}

// Rows of q and k in the order of the file.
Bytes interleaved(const Bytes& rows, size_t bytes, int64_t head_width) {
  Bytes out(rows.size());
  for (size_t row = 0; row < rows.size() / bytes; ++row) {
    const auto to = static_cast<size_t>(core::interleaved_row(static_cast<int64_t>(row), head_width));
    std::memcpy(out.data() + to * bytes, rows.data() + row * bytes, bytes);
  }
  return out;
}

const quant::QuantizedLinear* as_quantized(const std::shared_ptr<core::Linear>& linear) {
  return dynamic_cast<const quant::QuantizedLinear*>(linear.get());
}

// Bits per weight, with scales and zero points.
double stored_bits(const quant::QuantizedLinear& linear) {
  const core::Cost cost = linear.cost();
  return static_cast<double>(cost.code_bits + cost.parameter_bits) / static_cast<double>(cost.weights);
}

// What a weight of this many bits would have to be to be held exactly.
std::string advice(int64_t bits) {
  std::vector<std::string> names;
  for (const std::string& name : quant::presets()) {
    if (core::find_ggml_type(name)->grid.bits == bits) names.push_back(name);
  }
  return names.empty() ? "" : fmt::format(" Grids that are: quant.weight.preset: {}.", fmt::join(names, ", "));
}

}  // namespace

std::vector<const GgmlType*> candidate_types(const GgufTypes& types, int64_t bits, int64_t columns) {
  std::vector<const GgmlType*> all;
  for (const GgmlType* type : core::coded_ggml_types()) {
    const bool fits = columns % type->block == 0 && type->grid.bits >= bits;
    if (fits && (types.wanted == nullptr || type == types.wanted)) all.push_back(type);
  }
  return all;
}

GgufTensorWriter::GgufTensorWriter(core::GgufWriter& writer, const core::GgufArchitecture& architecture,
                                   int64_t head_width, GgufTypes types)
    : writer_(writer), architecture_(architecture), head_width_(head_width), types_(types) {}

GgufPlace GgufTensorWriter::place_of(const std::string& name) const {
  const bool of_block = !block_.empty() && name.starts_with(block_);
  const auto place = core::gguf_place(architecture_, of_block ? written_as_ + name.substr(block_.size()) : name);
  core::require(place.has_value(), "llama.cpp's {} has no tensor for {}. Use another format.", architecture_.name,
                name);
  return *place;
}

void GgufTensorWriter::write(core::Block& block, const WrittenBlock& as) {
  block_ = as.path + ".";
  written_as_ = core::path_of_block(as.number) + ".";
  std::vector<Stack> stacks;
  std::vector<core::RmsNorm*> norms;
  for (const auto& module : block.modules(/*include_self=*/false)) {
    auto* slot = dynamic_cast<core::Slot*>(module.get());
    if (slot == nullptr) {
      if (auto* norm = dynamic_cast<core::RmsNorm*>(module.get())) norms.push_back(norm);
      continue;
    }
    GgufPlace place = place_of(slot->path() + ".weight");
    const auto known =
        std::find_if(stacks.begin(), stacks.end(), [&](const Stack& s) { return s.place.tensor == place.tensor; });
    if (known != stacks.end()) {
      TORCH_CHECK(place.expert == std::ssize(known->slots), "experts of ", place.tensor, " are out of order");
      known->slots.push_back(slot);
    } else {
      stacks.push_back({std::move(place), {slot}});
    }
  }
  for (const core::RmsNorm* norm : norms) write_vector(place_of(norm->path() + ".weight").tensor, norm->weight());
  for (const Stack& stack : stacks) {
    const core::Role role = stack.slots.front()->role();
    const bool routes = role == core::Role::router || role == core::Role::shared_expert_gate;
    const double factor = role == core::Role::o_proj      ? as.attention
                          : role == core::Role::down_proj ? as.feed_forward
                                                          : 1;
    write(stack, routes ? core::find_ggml_type("F32") : nullptr, factor);  // as llama.cpp's converter has them
  }
}

void GgufTensorWriter::write(core::Embedding& embedding) {
  write(Stack{place_of(embedding.path() + ".weight"), {&embedding}}, types_.embedding);
}

void GgufTensorWriter::write(core::Slot& head) {
  write(Stack{place_of(head.path() + ".weight"), {&head}}, types_.embedding);
}

void GgufTensorWriter::write(core::Loadable& norm) {
  for (const core::State& state : norm.state()) write_vector(place_of(state.name).tensor, state.tensor);
}

void GgufTensorWriter::write_vector(const std::string& name, const at::Tensor& values) {
  const at::Tensor exact = values.detach().to(at::kFloat).cpu().contiguous();
  write_floats(name, {exact.const_data_ptr<float>(), exact.const_data_ptr<float>() + exact.numel()});
}

void GgufTensorWriter::write_floats(const std::string& name, const std::vector<float>& values) {
  const GgmlType& type = *core::find_ggml_type("F32");
  writer_.add(name, type, {std::ssize(values)});
  writer_.append(std::as_bytes(std::span(values)));
  written_.push_back({name, type.name, std::ssize(values), 4 * std::ssize(values), 0});
}

// Tensors of a GGUF file, block by block as they are: nothing is decoded, so that nothing can be lost.
std::optional<GgufTensorWriter::Encoded> GgufTensorWriter::copied(const Stack& stack) const {
  if (source_ == nullptr) return std::nullopt;
  Encoded encoded{nullptr, {}};
  for (const core::Slot* slot : stack.slots) {
    const std::string name = slot->path() + ".weight";
    if (!source_->has(name)) return std::nullopt;
    const core::StoredTensor stored = source_->stored(name);
    if (!stored.codes) return std::nullopt;
    const GgmlType* type = core::find_ggml_type(stored.type);
    if (encoded.type != nullptr && encoded.type != type) return std::nullopt;
    encoded.type = type;
    const int64_t O = slot->out_features(), blocks = slot->in_features() / type->block;
    Bytes bytes(static_cast<size_t>(O * blocks) * type->block_bytes);
    std::vector<core::GgmlBlock> row(static_cast<size_t>(blocks));
    std::byte* to = bytes.data();
    for (int64_t o = 0; o < O; ++o) {
      stored.codes->row(o, row.data());
      for (const core::GgmlBlock& block : row) {
        core::put_together(*type, block, to);
        to += type->block_bytes;
      }
    }
    encoded.parts.push_back(std::move(bytes));
  }
  return encoded;
}

std::optional<GgufTensorWriter::Encoded> GgufTensorWriter::in_type(const GgmlType& type,
                                                                   const std::vector<CodedRows>& rows,
                                                                   std::optional<core::CodeMap> map) const {
  Encoded encoded{&type, {}};
  for (const CodedRows& one : rows) {
    auto bytes = one.in(type, map);
    if (!bytes) return std::nullopt;
    encoded.parts.push_back(*std::move(bytes));
  }
  return encoded;
}

GgufTensorWriter::Encoded GgufTensorWriter::coded(const Stack& stack,
                                                  const std::vector<std::shared_ptr<core::Linear>>& linears) const {
  std::vector<CodedRows> rows;
  int64_t bits = 1;
  bool rotated = false, are_alike = true;
  for (const auto& linear : linears) {
    const quant::QuantizedLinear& quantized = *as_quantized(linear);
    rotated = rotated || quantized.rotation() != nullptr;
    rows.emplace_back(quantized.format(), quant::Encoded{quantized.codes().unpack(), quantized.parameters()});
    bits = std::max(bits, quantized.format().code_bits());
    are_alike = are_alike && quantized.format().code_bits() == as_quantized(linears.front())->format().code_bits();
  }
  const int64_t columns = stack.slots.front()->in_features();
  const bool wants_map = types_.one_map && are_alike;  // codes of one width
  for (const GgmlType* type : rotated ? std::vector<const GgmlType*>{} : candidate_types(types_, 1, columns)) {
    for (const core::CodeMap& map : wants_map ? rows.front().maps(*type) : std::vector<core::CodeMap>{}) {
      auto encoded = in_type(*type, rows, map);
      if (!encoded) continue;
      encoded->codes = {stack.place.tensor, static_cast<int32_t>(bits), map};
      return *std::move(encoded);
    }
    if (auto encoded = in_type(*type, rows, std::nullopt)) return *std::move(encoded);
  }
  core::require(
      types_.allow_refit, "{}: {} its grid exactly. Set allow_refit: true to round it to one.{}",
      stack.slots.front()->path(),
      types_.wanted != nullptr ? std::string(types_.wanted->name) + " does not hold" : "no type of GGUF files holds",
      advice(bits));
  return refitted(stack, linears);
}

// To the wanted type; else to the smallest with as many bits as the linear stores.
GgufTensorWriter::Encoded GgufTensorWriter::refitted(const Stack& stack,
                                                     const std::vector<std::shared_ptr<core::Linear>>& linears) const {
  const core::Slot& first = *stack.slots.front();
  const std::vector<const GgmlType*> types = candidate_types(types_, 1, first.in_features());
  core::require(!types.empty(), "{}: rows of {} weights are no whole blocks of {}. Choose another type.", first.path(),
                first.in_features(), types_.wanted != nullptr ? types_.wanted->name : "any type");
  double bits = 0;
  for (const auto& linear : linears) bits = std::max(bits, stored_bits(*as_quantized(linear)));
  const auto enough =
      std::find_if(types.begin(), types.end(), [&](const auto* type) { return type->bits() > bits - 0.01; });
  return rounded(linears, enough == types.end() ? types.back() : *enough);
}

// The weights themselves, rounded to the type; null: the smallest that holds them exactly.
GgufTensorWriter::Encoded GgufTensorWriter::rounded(const std::vector<std::shared_ptr<core::Linear>>& linears,
                                                    const GgmlType* type) const {
  std::vector<at::Tensor> weights;
  for (const auto& linear : linears) weights.push_back(linear->weight().to(at::kFloat).cpu().contiguous());
  Encoded encoded{type != nullptr ? type : exact_float_type(weights), {}};
  double error = 0, all = 0;
  for (const at::Tensor& w : weights) {
    RoundedRows rows = rows_of(w, *encoded.type);
    encoded.parts.push_back(std::move(rows.bytes));
    error += rows.error;
    all += w.square().sum().item<double>();
  }
  encoded.error = all > 0 ? error / all : 0;
  return encoded;
}

// dense: the type, whatever it is; null: of a quantized linear as its codes say, else the smallest that holds it
// exactly.
void GgufTensorWriter::write(const Stack& stack, const GgmlType* dense, double factor) {
  std::vector<std::shared_ptr<core::Linear>> linears;
  Folding folding(factor);
  for (const core::Slot* slot : stack.slots) linears.push_back(folding.folded(slot->in_memory()));
  const bool quantized = std::all_of(linears.begin(), linears.end(), [](const auto& l) { return as_quantized(l); });
  std::optional<Encoded> encoded = dense == nullptr && !quantized && factor == 1 ? copied(stack) : std::nullopt;
  if (!encoded) encoded = quantized && dense == nullptr ? coded(stack, linears) : rounded(linears, dense);
  encoded->error += folding.error();
  if (encoded->codes) codes_in_base_.push_back(*encoded->codes);
  const core::Slot& first = *stack.slots.front();
  const int64_t O = first.out_features(), I = first.in_features();
  std::vector<int64_t> shape{O, I};
  if (stack.place.expert >= 0) shape.insert(shape.begin(), std::ssize(stack.slots));
  writer_.add(stack.place.tensor, *encoded->type, shape);
  int64_t bytes = 0;
  for (Bytes& part : encoded->parts) {
    bytes += std::ssize(part);
    writer_.append(stack.place.is_interleaved ? interleaved(part, row_bytes(*encoded->type, I), head_width_) : part);
    part = {};
  }
  written_.push_back({stack.place.tensor, encoded->type->name, O * I * std::ssize(stack.slots), bytes, encoded->error});
  for (size_t i = 0; i < linears.size() && first.has_bias(); ++i) {
    core::require(stack.slots.size() == 1, "{}: llama.cpp has no biases of experts. Use another format.", first.path());
    at::Tensor bias = linears[i]->bias().to(at::kFloat).cpu();  // folded, too
    if (stack.place.is_interleaved) {
      const at::Tensor from = bias;
      bias = at::empty_like(from);
      for (int64_t row = 0; row < O; ++row) bias[core::interleaved_row(row, head_width_)] = from[row];
    }
    write_vector(place_of(first.path() + ".bias").tensor, bias);
  }
}

}  // namespace exports
