#include "core/io/gguf_sidecar.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/io/gguf_architecture.h"
#include "core/io/gguf_model.h"
#include "core/io/gguf_names.h"
#include "core/io/hash.h"
#include "core/io/json_text.h"
#include "core/io/mapped_file.h"

namespace core {
namespace {

constexpr const char* kKind = "refrain";  // adapter.type
constexpr const char* kOurs = "refrain.";
constexpr size_t kLongestName = 63;  // of a tensor, GGML_MAX_NAME without its end

// Parts of names that the file shortens.
struct Spelling {
  const char *ours, *in_file;
};
constexpr Spelling kBlocks{"model.layers.", "blk."}, kReplica{".replica", ".r"};

// The tensor that stands in the sidecar as `name`; "": it is not one of ours.
std::string original_name(const std::string& name) {
  if (!name.starts_with(kOurs)) return {};
  std::string out = name.substr(std::string_view(kOurs).size());
  if (!out.starts_with(kBlocks.in_file)) return out;
  out.replace(0, std::string_view(kBlocks.in_file).size(), kBlocks.ours);
  const size_t dot = out.find('.', std::string_view(kBlocks.ours).size());
  const bool is_replica = dot != std::string::npos && dot + 2 < out.size() &&
                          out.compare(dot, 2, kReplica.in_file) == 0 && out[dot + 2] >= '0' && out[dot + 2] <= '9';
  if (is_replica) out.replace(dot, 2, kReplica.ours);
  return out;
}

std::string base_path(const Gguf& sidecar) {
  const std::string name = sidecar.text("refrain.base");
  const std::filesystem::path path = std::filesystem::path(sidecar.where()).parent_path() / name;
  require(!name.empty() && std::filesystem::path(name).filename() == name,
          "{}: refrain.base is `{}`, not a file beside it. Export the model again.", sidecar.where(), printable(name));
  std::error_code ignored;
  require(std::filesystem::exists(path, ignored), "{}: {}, which it stands beside, is missing. Put it there.",
          sidecar.where(), name);
  return path.string();
}

Gguf base_of(const Gguf& sidecar) {
  const int64_t version = sidecar.integer("refrain.version");
  require(version == kSidecarVersion, "{}: refrain.version is {}; this Refrain reads {}. Export the model again.",
          sidecar.where(), version, kSidecarVersion);
  Gguf base = Gguf::open(base_path(sidecar));
  require(!is_sidecar(base), "{}: refrain.base is a sidecar itself. Export the model again.", sidecar.where());
  const std::string ours = sidecar.text("general.architecture"), theirs = base.text("general.architecture");
  require(ours == theirs,
          "{}: it stands beside a model of the architecture {}, and {} is one of {}. Put the right one there.",
          sidecar.where(), printable(ours), base.where(), printable(theirs));
  return base;
}

std::vector<CodesInBase> codes_in_base(const Gguf& sidecar) {
  if (!sidecar.has("refrain.codes.tensors")) return {};
  const auto& tensors = sidecar.texts("refrain.codes.tensors");
  const auto numbers = [&](const std::string& key) {
    std::vector<int64_t> values = sidecar.integers(key);
    require(values.size() == tensors.size(), "{}: {} has {} entries for {} tensors. Export the model again.",
            sidecar.where(), key, values.size(), tensors.size());
    return values;
  };
  const std::vector<int64_t> bits = numbers("refrain.codes.bits"), factor = numbers("refrain.codes.factor"),
                             offset = numbers("refrain.codes.offset");
  std::vector<CodesInBase> all;
  for (size_t i = 0; i < tensors.size(); ++i) {
    constexpr int64_t kMost = 65536;
    const bool sane = bits[i] >= 1 && bits[i] <= 8 && factor[i] != 0 && factor[i] >= -kMost && factor[i] <= kMost &&
                      offset[i] >= -kMost && offset[i] <= kMost;
    require(sane, "{}: refrain.codes of {} are {} bits, {} k + {}, which none of ours are. Export the model again.",
            sidecar.where(), printable(tensors[i]), bits[i], factor[i], offset[i]);
    all.push_back({std::string(tensors[i]),
                   static_cast<int32_t>(bits[i]),
                   {static_cast<int32_t>(factor[i]), static_cast<int32_t>(offset[i])}});
  }
  return all;
}

class SidecarTensors : public TensorSource {
 public:
  explicit SidecarTensors(const Gguf& sidecar)
      : sidecar_(sidecar), base_file_(base_of(sidecar)), base_(gguf_tensors(base_file_)) {
    require(sidecar_.text("refrain.base_hash") == hash_of_base(base_file_),
            "{}: {} is not the file that it was written beside. Put that one there, or export the model again.",
            sidecar_.where(), base_file_.where());
    for (const GgufTensor& tensor : sidecar_.tensors()) {
      const std::string name = original_name(tensor.name);
      require(!name.empty() && type_of(tensor).has_value(),
              "{}: tensor {} of type {} is none of a sidecar. Export the model again.", sidecar_.where(),
              printable(tensor.name), tensor.type->name);
      own_[name] = &tensor;
    }
    find_codes();
    for (const auto& [name, tensor] : own_) {
      if (name.ends_with(".codes")) approximated_.insert(weight_of(name));
    }
    for (const auto& [name, codes] : codes_) approximated_.insert(weight_of(name));
  }

  bool has(const std::string& name) const override {
    return own_.contains(name) || codes_.contains(name) || (base_->has(name) && !approximated_.contains(name));
  }

  StoredTensor stored(const std::string& name) const override {
    if (const auto own = own_.find(name); own != own_.end()) {
      const GgufTensor& tensor = *own->second;
      const DType type = *type_of(tensor);
      return {.type = name_of(type),
              .shape = tensor.shape,
              .bits = tensor.type->bits(),
              .view = TensorView{type, tensor.shape, tensor.data, tensor.bytes},
              .decode = {}};
    }
    if (const auto codes = codes_.find(name); codes != codes_.end()) return codes_of(name, codes->second);
    require(!approximated_.contains(name), "{}: {} is made of codes. Use those, or read {}.", sidecar_.where(), name,
            base_file_.where());
    return base_->stored(name);
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> all = base_->names();
    std::erase_if(all, [this](const std::string& name) { return approximated_.contains(name); });
    for (const auto& [name, tensor] : own_) all.push_back(name);
    for (const auto& [name, codes] : codes_) all.push_back(name);
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
  }

  std::vector<std::string> files() const override {
    std::vector<std::string> all = base_->files();
    all.push_back(sidecar_.where());
    std::sort(all.begin(), all.end());
    return all;
  }

  const std::string& file_of(const std::string& name) const override {
    if (own_.contains(name)) return sidecar_.where();
    return base_->file_of(codes_.contains(name) ? weight_of(name) : name);
  }

  void release(const TensorView& view) const override { release_pages(view.data, view.bytes); }

 private:
  static std::optional<DType> type_of(const GgufTensor& tensor) {
    if (tensor.type->name == std::string_view("I8")) return DType::U8;  // GGUF has no unsigned one
    for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
      if (tensor.type->name == std::string_view(name_of(type))) return type;
    }
    return std::nullopt;
  }
  static std::string weight_of(const std::string& codes) { return codes.substr(0, codes.rfind('.')) + ".weight"; }

  // The linears whose codes are those of tensors of the base.
  void find_codes() {
    const GgufArchitecture& architecture = architecture_of(base_file_);
    std::map<std::string, CodesInBase> by_tensor;
    for (CodesInBase& codes : codes_in_base(sidecar_)) by_tensor[codes.tensor] = codes;
    for (const std::string& name : base_->names()) {
      const auto place = gguf_place(architecture, name);
      if (!place) continue;
      const auto found = by_tensor.find(place->tensor);
      if (found == by_tensor.end()) continue;
      require(base_->stored(name).codes.has_value(), "{}: {} has no codes, but {} says so. Export the model again.",
              base_file_.where(), place->tensor, sidecar_.where());
      codes_[name.substr(0, name.rfind('.')) + ".codes"] = found->second;
    }
  }

  StoredTensor codes_of(const std::string& name, const CodesInBase& codes) const {
    StoredTensor tensor = base_->stored(weight_of(name));
    const int64_t columns = tensor.shape.back(), blocks = columns / tensor.codes->block;
    tensor.type = name_of(DType::U8);
    tensor.shape.back() = (columns * codes.bits + 7) / 8;
    tensor.bits = 8;
    tensor.view.reset();
    tensor.decode = nullptr;
    tensor.codes->row = [row = tensor.codes->row, codes, blocks, block = tensor.codes->block](int64_t index,
                                                                                              GgmlBlock* to) {
      row(index, to);
      const auto mask = static_cast<uint8_t>((1 << codes.bits) - 1);
      for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t i = 0; i < block; ++i) {
          uint8_t& code = to[b].codes[static_cast<size_t>(i)];
          code = static_cast<uint8_t>((code - codes.map.offset) / codes.map.factor) & mask;
        }
      }
    };
    return tensor;
  }

  Gguf sidecar_, base_file_;
  std::shared_ptr<const TensorSource> base_;
  std::map<std::string, const GgufTensor*> own_;
  std::map<std::string, CodesInBase> codes_;  // by name, "model.layers.3.mlp.up_proj.codes"
  std::set<std::string> approximated_;        // weights of the base in whose place there are codes
};

}  // namespace

bool is_sidecar(const Gguf& file) {
  return file.text("general.type", "") == "adapter" && file.text("adapter.type", "") == kKind;
}

Gguf open_base(const std::string& path) {
  Gguf file = Gguf::open(path);
  return is_sidecar(file) ? base_of(file) : file;
}

std::string hash_of_base(const Gguf& base) {
  constexpr size_t kLooked = 4096;  // bytes
  Hasher hasher;
  for (const GgufTensor& tensor : base.tensors()) {
    hasher.update(fmt::format("{} {} {} ", tensor.name, tensor.type->name, fmt::join(tensor.shape, ",")));
    const size_t count = std::min(tensor.bytes, kLooked);
    hasher.update(tensor.data, count);
    hasher.update(tensor.data + tensor.bytes - count, count);
  }
  return hasher.hex();
}

std::shared_ptr<const TensorSource> sidecar_tensors(const Gguf& sidecar) {
  return std::make_shared<SidecarTensors>(sidecar);
}

std::string sidecar_name(const std::string& tensor) {
  std::string name = tensor;
  if (name.starts_with(kBlocks.ours)) {
    if (const size_t replica = name.find(kReplica.ours); replica != std::string::npos)
      name.replace(replica, std::string_view(kReplica.ours).size(), kReplica.in_file);
    name.replace(0, std::string_view(kBlocks.ours).size(), kBlocks.in_file);
  }
  name = kOurs + name;
  require(name.size() <= kLongestName,
          "{}: its name in a GGUF file, {}, is longer than {} letters. Use another format.", tensor, name,
          kLongestName);
  return name;
}

}  // namespace core
