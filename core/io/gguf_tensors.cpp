#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "core/config/nearest.h"
#include "core/error.h"
#include "core/io/gguf_architecture.h"
#include "core/io/gguf_model.h"
#include "core/io/gguf_names.h"
#include "core/io/json_text.h"
#include "core/io/mapped_file.h"

namespace core {
namespace {

// Where a Hugging Face tensor lies.
struct Place {
  const GgufTensor* tensor = nullptr;
  std::vector<int64_t> shape;
  int64_t first_row = 0;               // of an expert: in the stacked tensor
  int64_t interleaved = 0;             // head width, where the file has rows of a head in another order; 0: it has not
  const GgufTensor* values = nullptr;  // v_b, where `tensor` is k_b
};

void decode_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* to) {
  tensor.type->decode(tensor.data + static_cast<size_t>(first) * tensor.row_bytes(),
                      count * tensor.row_length() / tensor.type->block, to);
}

// Rows of kv_b_proj [H (plain + value), rank]: of each head the columns of its part of k_b [H, rank, plain], then its
// rows of v_b [H, value, rank].
void decode_kv_b(const GgufTensor& k_b, const GgufTensor& v_b, int64_t first, int64_t count, float* to) {
  const int64_t rank = k_b.shape[1], plain = k_b.shape[2], value = v_b.shape[1];
  std::vector<float> head(static_cast<size_t>(rank * plain));  // of k_b
  int64_t decoded = -1;
  for (int64_t row = first; row < first + count; ++row, to += rank) {
    const int64_t h = row / (plain + value), within = row % (plain + value);
    if (within >= plain) {
      decode_rows(v_b, h * value + within - plain, 1, to);
      continue;
    }
    if (decoded != h) decode_rows(k_b, h * rank, rank, head.data());
    decoded = h;
    for (int64_t i = 0; i < rank; ++i) to[i] = head[static_cast<size_t>(i * plain + within)];
  }
}

void decode_place(const Place& place, int64_t first, int64_t count, float* to) {
  const GgufTensor& tensor = *place.tensor;
  if (place.values != nullptr) return decode_kv_b(tensor, *place.values, first, count, to);
  if (place.interleaved == 0) return decode_rows(tensor, place.first_row + first, count, to);
  if (tensor.shape.size() == 1) {  // a bias: its values are in the order of rows
    std::vector<float> values(static_cast<size_t>(tensor.shape[0]));
    decode_rows(tensor, 0, 1, values.data());
    for (int64_t i = 0; i < tensor.shape[0]; ++i)
      to[i] = values[static_cast<size_t>(interleaved_row(i, place.interleaved))];
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    decode_rows(tensor, interleaved_row(first + i, place.interleaved), 1, to + i * tensor.row_length());
  }
}

void take_row_apart(const Place& place, int64_t row, GgmlBlock* to) {
  const GgmlType& type = *place.tensor->type;
  const int64_t from = place.interleaved == 0 ? place.first_row + row : interleaved_row(row, place.interleaved);
  const std::byte* block = place.tensor->data + static_cast<size_t>(from) * place.tensor->row_bytes();
  for (int64_t i = 0; i < place.tensor->row_length() / type.block; ++i, block += type.block_bytes)
    type.take_apart(block, to[i]);
}

std::optional<DType> plain_type(const GgmlType& type) {
  for (const DType plain : {DType::F32, DType::F16, DType::BF16}) {
    if (type.name == std::string_view(name_of(plain))) return plain;
  }
  return std::nullopt;
}

class GgufTensors : public TensorSource {
 public:
  explicit GgufTensors(Gguf file) : file_(std::move(file)), keys_(file_), files_(file_.files()) {
    head_width_ =
        keys_.count("attention.key_length",
                    std::max<int64_t>(keys_.count("embedding_length") / keys_.count("attention.head_count"), 1));
    for (const GgufTensor& tensor : file_.tensors()) add(tensor);
  }

  bool has(const std::string& name) const override { return places_.count(name) > 0; }

  StoredTensor stored(const std::string& name) const override {
    const Place& place = find(name);
    const GgufTensor& tensor = *place.tensor;
    for (const GgufTensor* part : {&tensor, place.values}) {
      require(part == nullptr || part->type->decode != nullptr,
              "{}: tensor {} has the element type {}. Types that are read: {}.", files_[tensor.file], tensor.name,
              part == nullptr ? "" : part->type->name, readable_ggml_types());
    }
    StoredTensor out{tensor.type->name, place.shape, tensor.type->bits(), {}, {}};
    if (tensor.type->take_apart != nullptr && place.values == nullptr) {
      out.codes = StoredCodes{tensor.type->grid, tensor.type->block,
                              [file = file_, place](int64_t row, GgmlBlock* to) { take_row_apart(place, row, to); }};
    }
    const std::optional<DType> plain = plain_type(*tensor.type);
    if (plain && place.interleaved == 0 && place.values == nullptr) {
      size_t bytes = size_of(*plain);
      for (const int64_t size : place.shape) bytes *= static_cast<size_t>(size);
      out.view = TensorView{*plain, place.shape,
                            tensor.data + static_cast<size_t>(place.first_row) * tensor.row_bytes(), bytes};
    } else {
      // The mapping lives as long as the copy of the file in the function.
      out.decode = [file = file_, place](int64_t first, int64_t count, float* to) {
        decode_place(place, first, count, to);
      };
    }
    return out;
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, place] : places_) out.push_back(name);
    return out;
  }

  std::vector<std::string> files() const override { return files_; }
  const std::string& file_of(const std::string& name) const override { return files_[find(name).tensor->file]; }
  void release(const TensorView& view) const override { release_pages(view.data, view.bytes); }

 private:
  const Place& find(const std::string& name) const {
    const auto found = places_.find(name);
    if (found != places_.end()) return found->second;
    std::string hint = did_you_mean(name, names());
    if (hint.empty()) hint = fmt::format(" Is this the right model? It holds {} tensors.", places_.size());
    fail("{}: there is no tensor `{}`.{}", file_.where(), printable(name), hint);
  }

  [[noreturn]] void unknown(const GgufTensor& tensor) const {
    fail("{}: tensor {} does not belong to the architecture {} as we compute it. Use a model without it.",
         file_.where(), printable(tensor.name), keys_.architecture.name);
  }

  void put(const std::string& name, Place place) { places_[name] = std::move(place); }

  void add(const GgufTensor& tensor) {
    if (tensor.name == "rope_freqs.weight") return;  // gguf_config has it
    if (tensor.name == "token_embd.weight") return put("model.embed_tokens.weight", {&tensor, tensor.shape});
    if (tensor.name == "output_norm.weight") return put("model.norm.weight", {&tensor, tensor.shape});
    if (tensor.name == "output.weight") return put("lm_head.weight", {&tensor, tensor.shape});
    const size_t number = 4, dot = tensor.name.find('.', number), end = tensor.name.rfind('.');
    const bool digits = tensor.name.starts_with("blk.") && dot != std::string::npos && dot > number && dot < end &&
                        std::all_of(tensor.name.begin() + number, tensor.name.begin() + static_cast<int64_t>(dot),
                                    [](char c) { return c >= '0' && c <= '9'; });
    if (!digits) unknown(tensor);
    const std::string part = tensor.name.substr(dot + 1, end - dot - 1), kind = tensor.name.substr(end);
    const auto row = std::find_if(kGgufBlockTensors.begin(), kGgufBlockTensors.end(),
                                  [&](const GgufTensorName& name) { return part == name.ours; });
    if (row == kGgufBlockTensors.end() || !row->is_of(keys_.architecture) || (kind != ".weight" && kind != ".bias"))
      unknown(tensor);
    add_of_block(tensor, *row, "model.layers." + tensor.name.substr(number, dot - number) + ".", kind);
  }

  void add_of_block(const GgufTensor& tensor, const GgufTensorName& row, const std::string& block,
                    const std::string& kind) {
    const std::string ours = row.ours;
    if (ours.ends_with("_exps")) return add_experts(tensor, block + "mlp.experts.", row.theirs, kind);
    if (ours.ends_with("_shexp") && ours != "ffn_gate_inp_shexp") {
      return put(block + "mlp." + keys_.architecture.shared_experts() + "." + row.theirs + kind,
                 {&tensor, tensor.shape});
    }
    if (ours == "attn_v_b") return;  // with attn_k_b
    if (ours == "attn_k_b") return add_kv_b(tensor, block + row.theirs + kind);
    Place place{&tensor, tensor.shape};
    if (ours == "ffn_gate_inp_shexp" && tensor.shape.size() == 1) place.shape = {1, tensor.shape[0]};
    if (keys_.architecture.interleaves(ours)) {
      place.interleaved = head_width_;
      require(head_width_ % 2 == 0 && tensor.shape[0] % head_width_ == 0,
              "{}: {} has {} rows, not whole heads of {}. Convert the model again.", file_.where(), tensor.name,
              tensor.shape[0], head_width_);
    }
    put(block + row.theirs + kind, std::move(place));
  }

  void add_experts(const GgufTensor& tensor, const std::string& prefix, const char* linear, const std::string& kind) {
    require(tensor.shape.size() == 3, "{}: {} has {} axes, not 3. Convert the model again.", file_.where(), tensor.name,
            tensor.shape.size());
    for (int64_t expert = 0; expert < tensor.shape[0]; ++expert) {
      put(fmt::format("{}{}.{}{}", prefix, expert, linear, kind),
          {&tensor, {tensor.shape[1], tensor.shape[2]}, expert * tensor.shape[1]});
    }
  }

  void add_kv_b(const GgufTensor& k_b, const std::string& name) {
    const std::string block = k_b.name.substr(0, k_b.name.find("attn_k_b"));
    const GgufTensor& v_b = needed_tensor(file_, block + "attn_v_b.weight", 3);
    require(k_b.shape.size() == 3 && v_b.shape[0] == k_b.shape[0] && v_b.shape[2] == k_b.shape[1],
            "{}: {} and {} do not belong together. Convert the model again.", file_.where(), k_b.name, v_b.name);
    put(name, {&k_b, {k_b.shape[0] * (k_b.shape[2] + v_b.shape[1]), k_b.shape[1]}, 0, 0, &v_b});
  }

  Gguf file_;
  GgufKeys keys_;  // of file_
  std::vector<std::string> files_;
  int64_t head_width_ = 0;
  std::map<std::string, Place> places_;
};

}  // namespace

std::shared_ptr<const TensorSource> gguf_tensors(const Gguf& file) { return std::make_shared<GgufTensors>(file); }

}  // namespace core
