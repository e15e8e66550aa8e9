#include "export/ggml/read_replicas.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/config/nearest.h"
#include "core/config/node.h"
#include "core/error.h"
#include "core/io/gguf_model.h"
#include "core/io/gguf_names.h"
#include "core/io/gguf_sidecar.h"
#include "core/io/hash.h"
#include "core/io/hf_config.h"
#include "core/io/json_text.h"
#include "quant/grids/weight_config.h"

namespace exports {

namespace {

namespace kernels = quant::kernels;

using quant::WeightConfig;

constexpr const char* kAgain = "Export the model again";

int64_t packed_bytes(int64_t columns, int64_t bits) { return (columns * bits + 7) / 8; }

// bytes: of a row as core/codes.h packs it; zeros where the code goes.
void put_code(uint8_t* bytes, size_t column, int64_t bits, uint8_t code) {
  for (int64_t b = 0, bit = static_cast<int64_t>(column) * bits; b < bits; ++b, ++bit)
    bytes[bit / 8] |= (code >> b & 1) << bit % 8;
}

// Why no kernel of this operator computes the module; empty: one does.
std::string unsupported(const core::JsonObject& module, const WeightConfig& weight) {
  if (const std::string decoder = module.text("decoder"); decoder != "affine") return "decoder " + decoder;
  if (weight.scale_bits > 0) return "two-level scales";
  if (weight.stores_minimum()) return "zero_point: min";
  if (weight.incoherence.selected()) return "rotations";
  if (weight.noise.in_inference()) return "noise";
  if (module.has("activation")) return "quantized inputs";
  if (module.has("replication")) return "replication inside of the linear";
  return kernels::Layout::fits(weight.bits) ? "" : fmt::format("codes of {} bits", weight.bits);
}

// Reads one linear and its replicas.
class Reader {
 public:
  Reader(const std::string& sidecar, std::string module)
      : sidecar_(core::Gguf::open(sidecar)), base_(core::open_base(sidecar)), module_(std::move(module)) {
    core::require(core::is_sidecar(sidecar_),
                  "{}: this is no sidecar of Refrain. Give the file that ends in .refrain.gguf.", where());
    tensors_ = core::sidecar_tensors(sidecar_);
  }

  std::unique_ptr<refrain_replicas> read() {
    const core::JsonObject modules =
        core::JsonObject::parse(sidecar_.text("refrain.manifest"), where()).object("modules");
    require_codes();
    const std::vector<int64_t> shape = core::gguf_tensors(base_)->stored(module_ + ".weight").shape;
    core::require(shape.size() == 2, "{}: {}.weight has {} axes, not 2. {}.", base_.where(), module_, shape.size(),
                  kAgain);
    const WeightConfig weight = config_of(modules, module_);
    check_groups(weight, shape[1]);
    find_rows(shape[0]);
    auto out = std::make_unique<refrain_replicas>();
    out->kernel = &kernels::chosen_kernel();
    out->layout = kernels::Layout::of(shape[0], shape[1], weight.bits, weight.group_size);
    const std::vector<uint8_t> canonical = codes(out->layout);
    check_hash(canonical, out->layout, modules.object(module_).text("code_hash"));
    out->words.resize(static_cast<size_t>(out->layout.words()));
    kernels::fill_codes(out->layout, in_order(canonical).data(), out->words.data());
    for (const auto& [number, path] : owners()) {
      const WeightConfig own = config_of(modules, path);
      core::require(own.bits == weight.bits && own.group_size == weight.group_size,
                    "{}: {} has other bits or groups than {}, whose codes it shares. {}.", where(), path, module_,
                    kAgain);
      out->numbers.push_back(number);
      add_set(path, own, *out);
    }
    return out;
  }

 private:
  const std::string& where() const { return sidecar_.where(); }

  void require_codes() const {
    if (tensors_->has(module_ + ".codes")) return;
    std::vector<std::string> linears;
    for (const std::string& name : tensors_->names()) {
      if (name.ends_with(".codes")) linears.push_back(name.substr(0, name.rfind('.')));
    }
    std::string hint = core::did_you_mean(module_, linears);
    if (hint.empty() && !linears.empty()) hint = fmt::format(" One that it has is {}.", linears.front());
    core::fail("{}: there are no codes of a linear {}.{}", where(), core::printable(module_), hint);
  }

  // The variables of a module, with the defaults of those that are not written.
  WeightConfig config_of(const core::JsonObject& modules, const std::string& path) const {
    core::require(modules.has(path), "{}: refrain.manifest has no module {}. {}.", where(), path, kAgain);
    const core::JsonObject module = modules.object(path);
    WeightConfig weight;  // JSON is YAML
    core::bind(core::parse_yaml(module.object("weight").raw().dump(), where()), weight, "modules." + path + ".weight");
    const std::string reason = unsupported(module, weight);
    core::require(reason.empty(),
                  "{}: {} has {}, which the operator of ggml does not compute. Run the model by Refrain.", where(),
                  path, reason);
    const std::string owner = module.text("codes_of", "");
    core::require(owner.empty() || owner == module_, "{}: the codes of {} are those of {}. Ask for that one.", where(),
                  path, owner);
    return weight;
  }

  void check_groups(const WeightConfig& weight, int64_t columns) const {
    const int64_t size = weight.group_size;
    core::require(size < 1 || columns % size == 0, "{}: {} has groups of {} in rows of {}. {}.", where(), module_, size,
                  columns, kAgain);
  }

  // rows_[o]: where row o is in the output.
  void find_rows(int64_t rows) {
    const core::GgufKeys keys(base_);
    const auto place = core::gguf_place(keys.architecture, module_ + ".weight");
    rows_.resize(static_cast<size_t>(rows));
    std::iota(rows_.begin(), rows_.end(), 0);
    if (!place || !place->is_interleaved) return;
    const int64_t head =  // the base's tensors have been found to be whole heads of it
        keys.count("attention.key_length", keys.count("embedding_length") / keys.count("attention.head_count"));
    for (int64_t& row : rows_) row = core::interleaved_row(row, head);
  }

  // The rows of a matrix in the order of the output.
  template <typename T>
  std::vector<T> in_order(const std::vector<T>& ours) const {
    const auto width = static_cast<int64_t>(ours.size() / rows_.size());
    std::vector<T> out(ours.size());
    for (int64_t o = 0; o < std::ssize(rows_); ++o)
      std::copy_n(ours.begin() + o * width, width, out.begin() + rows_[static_cast<size_t>(o)] * width);
    return out;
  }

  // The paths that sets are of, by the numbers of the replicas.
  std::map<int64_t, std::string> owners() const {
    std::map<int64_t, std::string> all{{0, module_}};
    constexpr std::string_view kBlocks = "model.layers.";
    const size_t block = module_.starts_with(kBlocks) ? module_.find('.', kBlocks.size()) : std::string::npos;
    if (block == std::string::npos) return all;
    const std::string before = module_.substr(0, block) + ".replica", after = module_.substr(block) + ".scale";
    for (const std::string& name : tensors_->names()) {
      if (!name.starts_with(before) || !name.ends_with(after) || name.size() <= before.size() + after.size()) continue;
      const std::string digits = name.substr(before.size(), name.size() - before.size() - after.size());
      if (digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
      all[std::stoll(digits)] = name.substr(0, name.rfind('.'));
    }
    return all;
  }

  // A tensor of bytes or floats as it lies in its file. shape: what it must have.
  core::StoredTensor stored(const std::string& name, const std::vector<int64_t>& shape, bool are_codes) const {
    core::StoredTensor tensor = tensors_->stored(name);
    const bool is_read = tensor.view || (are_codes && tensor.codes);
    const bool is_u8 = tensor.type == core::name_of(core::DType::U8);
    core::require(is_read && is_u8 == are_codes && tensor.shape == shape, "{}: {} is {} [{}], not {} [{}]. {}.",
                  tensors_->file_of(name), name, tensor.type, fmt::join(tensor.shape, ", "),
                  are_codes ? "U8" : "floats", fmt::join(shape, ", "), kAgain);
    return tensor;
  }

  // Canonical, [O, ceil(I b / 8)].
  std::vector<uint8_t> codes(const kernels::Layout& layout) const {
    const std::string name = module_ + ".codes";
    const int64_t bytes = packed_bytes(layout.columns, layout.bits);
    const core::StoredTensor tensor = stored(name, {layout.rows, bytes}, /*are_codes=*/true);
    std::vector<uint8_t> canonical(static_cast<size_t>(layout.rows * bytes));
    if (tensor.view) {
      std::memcpy(canonical.data(), tensor.view->data, canonical.size());
      return canonical;
    }
    const auto block = static_cast<size_t>(tensor.codes->block), columns = static_cast<size_t>(layout.columns);
    std::vector<core::GgmlBlock> row(columns / block);
    for (int64_t o = 0; o < layout.rows; ++o) {
      tensor.codes->row(o, row.data());
      for (size_t i = 0; i < columns; ++i)
        put_code(&canonical[static_cast<size_t>(o * bytes)], i, layout.bits, row[i / block].codes[i % block]);
    }
    return canonical;
  }

  // Codes of the base may be those of another file.
  void check_hash(const std::vector<uint8_t>& canonical, const kernels::Layout& layout,
                  const std::string& known) const {
    core::require(
        core::hash_codes(layout.rows, layout.columns, layout.bits, canonical.data(), canonical.size()) == known,
        "{}: the codes of {} are not those that {} records. {}.", tensors_->file_of(module_ + ".codes"), module_,
        where(), kAgain);
  }

  // Integer i of packed ones [rows, groups].
  static float packed_number(const std::byte* data, int64_t i, int64_t groups, int64_t bits) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(data) + i / groups * packed_bytes(groups, bits);
    int value = 0;
    for (int64_t b = 0, bit = i % groups * bits; b < bits; ++b, ++bit) value |= (bytes[bit / 8] >> bit % 8 & 1) << b;
    return static_cast<float>(value);
  }

  static float float_at(const core::TensorView& view, int64_t i) {
    const std::byte* from = view.data + static_cast<size_t>(i) * core::size_of(view.dtype);
    uint32_t bits = 0;
    if (view.dtype == core::DType::F32) {
      std::memcpy(&bits, from, 4);
      return std::bit_cast<float>(bits);
    }
    std::memcpy(&bits, from, 2);
    return view.dtype == core::DType::F16 ? core::float_of_half(static_cast<uint16_t>(bits))
                                          : std::bit_cast<float>(bits << 16);
  }

  // A parameter of this shape. bits: of packed integers; 0: it is made of floats.
  std::vector<float> numbers(const std::string& name, std::vector<int64_t> shape, int64_t bits = 0) const {
    const int64_t groups = shape.back(), count = shape.size() == 1 ? groups : shape[0] * groups;
    if (bits > 0) shape.back() = packed_bytes(groups, bits);
    const core::StoredTensor tensor = stored(name, shape, bits > 0);
    std::vector<float> out;
    for (int64_t i = 0; i < count; ++i) {
      out.push_back(bits > 0 ? packed_number(tensor.view->data, i, groups, bits) : float_at(*tensor.view, i));
      core::require(std::isfinite(out.back()), "{}: {} has a value that is not finite. {}.", tensors_->file_of(name),
                    name, kAgain);
    }
    return out;
  }

  // [O, G] in the order of the output, from what is stored: that, or one number for the whole matrix.
  std::vector<float> per_row(const std::string& name, const WeightConfig& weight, const kernels::Layout& layout,
                             int64_t bits = 0) const {
    const int64_t rows = layout.rows, groups = layout.groups;
    if (weight.group_size == 0)
      return std::vector<float>(static_cast<size_t>(rows), numbers(name, {1, 1}, bits).front());
    return in_order(numbers(name, {rows, groups}, bits));
  }

  // Stored, because it can be trained.
  float offset_of(const std::string& path, const WeightConfig& weight) const {
    const std::string name = path + ".offset";
    if (weight.offset == 0 && !tensors_->has(name)) return 0;
    return numbers(name, {1}).front();
  }

  // The level of code k is s (k − z): z holds the zero point less the offset.
  void add_set(const std::string& path, const WeightConfig& weight, refrain_replicas& out) const {
    const kernels::Layout& layout = out.layout;
    const std::vector<float> scale = per_row(path + ".scale", weight, layout);
    const float offset = offset_of(path, weight);
    std::vector<float> zero;
    kernels::Parameters set;
    set.has_zeros = weight.symmetry == "asymmetric";
    if (set.has_zeros) {
      zero = per_row(path + ".zero_point", weight, layout, weight.zero_point == "int" ? weight.bits : 0);
      for (float& z : zero) z -= offset;
    } else {
      const auto codes = static_cast<float>(int64_t{1} << weight.bits);
      set.constant_zero = (weight.symmetry == "midrise" ? (codes - 1) / 2 : codes / 2) - offset;
    }
    set.is_half =
        kernels::fits_half(scale.data(), std::ssize(scale)) && kernels::fits_half(zero.data(), std::ssize(zero));
    const auto count = static_cast<size_t>(kernels::parameter_values(layout, set.has_zeros));
    out.values.emplace_back(count * (set.is_half ? sizeof(uint16_t) : sizeof(float)));
    kernels::fill_parameters(layout, scale.data(), set.has_zeros ? zero.data() : nullptr, set.is_half,
                             out.values.back().data());
    set.values = out.values.back().data();  // stays where it is when the outer vector grows
    out.sets.push_back(set);
  }

  core::Gguf sidecar_, base_;
  std::string module_;
  std::shared_ptr<const core::TensorSource> tensors_;
  std::vector<int64_t> rows_;
};

}  // namespace

std::unique_ptr<refrain_replicas> read_replicas(const std::string& sidecar, const std::string& module) {
  return Reader(sidecar, module).read();
}

}  // namespace exports
