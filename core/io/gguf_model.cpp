#include "core/io/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "core/config/nearest.h"
#include "core/error.h"
#include "core/io/json_text.h"
#include "core/io/mapped_file.h"

namespace core {
namespace {

using nlohmann::json;

// Parts of an architecture; what a tensor's name belongs to.
enum Part : unsigned { always = 1, head_norms = 2, mixture = 4, shared_experts = 8, latent = 16 };

struct Architecture {
  const char* name;         // in the file
  const char* model_type;   // in config.json
  unsigned parts;           // beside `always`
  bool interleaved;         // rows of q and k
  const char* experts_key;  // config.json's name for their number; null: dense
};

constexpr std::array kArchitectures{
    Architecture{"llama", "llama", 0, true, nullptr},
    Architecture{"qwen2", "qwen2", 0, false, nullptr},
    Architecture{"qwen3", "qwen3", head_norms, false, nullptr},
    Architecture{"qwen2moe", "qwen2_moe", mixture | shared_experts, false, "num_experts"},
    Architecture{"qwen3moe", "qwen3_moe", mixture | head_norms, false, "num_experts"},
    Architecture{"deepseek", "deepseek", mixture | shared_experts, true, "n_routed_experts"},
    Architecture{"deepseek2", "deepseek_v2", mixture | shared_experts | latent, false, "n_routed_experts"},
};

// The tensors of a block: blk.3.<ours> is model.layers.3.<theirs>.
struct TensorName {
  const char* ours;
  const char* theirs;
  Part part = always;
};
constexpr std::array kBlockTensors{
    TensorName{"attn_norm", "input_layernorm"},
    TensorName{"ffn_norm", "post_attention_layernorm"},
    TensorName{"attn_q", "self_attn.q_proj"},
    TensorName{"attn_k", "self_attn.k_proj"},
    TensorName{"attn_v", "self_attn.v_proj"},
    TensorName{"attn_output", "self_attn.o_proj"},
    TensorName{"ffn_gate", "mlp.gate_proj"},
    TensorName{"ffn_up", "mlp.up_proj"},
    TensorName{"ffn_down", "mlp.down_proj"},
    TensorName{"attn_q_norm", "self_attn.q_norm", head_norms},
    TensorName{"attn_k_norm", "self_attn.k_norm", head_norms},
    TensorName{"ffn_gate_inp", "mlp.gate", mixture},
    TensorName{"ffn_gate_exps", "gate_proj", mixture},
    TensorName{"ffn_up_exps", "up_proj", mixture},
    TensorName{"ffn_down_exps", "down_proj", mixture},
    TensorName{"ffn_gate_shexp", "gate_proj", shared_experts},
    TensorName{"ffn_up_shexp", "up_proj", shared_experts},
    TensorName{"ffn_down_shexp", "down_proj", shared_experts},
    TensorName{"ffn_gate_inp_shexp", "mlp.shared_expert_gate", shared_experts},
    TensorName{"attn_q_a", "self_attn.q_a_proj", latent},
    TensorName{"attn_q_a_norm", "self_attn.q_a_layernorm", latent},
    TensorName{"attn_q_b", "self_attn.q_b_proj", latent},
    TensorName{"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", latent},
    TensorName{"attn_kv_a_norm", "self_attn.kv_a_layernorm", latent},
    TensorName{"attn_kv_b", "self_attn.kv_b_proj", latent},
    TensorName{"attn_k_b", "self_attn.kv_b_proj", latent},
    TensorName{"attn_v_b", "self_attn.kv_b_proj", latent},
};

const Architecture& architecture_of(const Gguf& file) {
  const std::string name = file.text("general.architecture");
  std::vector<std::string> known;
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return a;
    known.emplace_back(a.name);
  }
  fail("{}: general.architecture {} is not implemented. Use a model of one of: {}.", file.where(), printable(name),
       fmt::join(known, ", "));
}

// The keys of one architecture: `attention.head_count` is `llama.attention.head_count`.
class Keys {
 public:
  explicit Keys(const Gguf& file) : architecture(architecture_of(file)), file_(file) {}

  std::string path(const std::string& key) const { return std::string(architecture.name) + "." + key; }
  bool has(const std::string& key) const { return file_.has(path(key)); }
  double number(const std::string& key) const { return file_.number(path(key)); }
  double number(const std::string& key, double otherwise) const { return file_.number(path(key), otherwise); }
  std::string text(const std::string& key, const std::string& otherwise) const {
    return file_.text(path(key), otherwise);
  }
  bool boolean(const std::string& key, bool otherwise) const { return file_.boolean(path(key), otherwise); }
  // A positive number below 2^31; a list, one per block, must repeat one.
  int64_t count(const std::string& key) const {
    const std::vector<int64_t>& values = file_.integers(path(key));
    const bool equal = !values.empty() && std::equal(values.begin() + 1, values.end(), values.begin());
    require(equal, "{}: {} differs between blocks, which is not implemented. Use another model.", file_.where(),
            path(key));
    require(values[0] >= 1 && values[0] < (int64_t{1} << 31),
            "{}: {} is {}, not a number from 1 to 2^31 - 1. Convert "
            "the model again.",
            file_.where(), path(key), values[0]);
    return values[0];
  }
  int64_t count(const std::string& key, int64_t otherwise) const { return has(key) ? count(key) : otherwise; }

  // Refuses a key by name; `what` says what it asks for.
  [[noreturn]] void refuse(const std::string& key, const std::string& what) const {
    fail("{}: {} asks for {}, which is not implemented. Use another model.", file_.where(), path(key), what);
  }

  const Architecture& architecture;

 private:
  const Gguf& file_;
};

const GgufTensor& needed(const Gguf& file, const std::string& name, size_t axes) {
  const GgufTensor* tensor = file.find(name);
  require(tensor != nullptr, "{}: the tensor {} is missing. Convert the model again.", file.where(), name);
  require(tensor->shape.size() == axes, "{}: {} has {} axes, not {}. Convert the model again.", file.where(), name,
          tensor->shape.size(), axes);
  return *tensor;
}

std::string in_block(int64_t block, const std::string& name) { return fmt::format("blk.{}.{}", block, name); }

// ---- config.json ----

// rope_scaling; null: none. head_width: of what is rotated.
json rope_scaling(const Gguf& file, const Keys& keys, int64_t head_width) {
  if (file.find("rope_freqs.weight") != nullptr) {
    const GgufTensor& factors = needed(file, "rope_freqs.weight", 1);
    require(factors.shape[0] == head_width / 2 && factors.type->decode != nullptr,
            "{}: rope_freqs.weight has {} factors, but {} pairs are rotated. Convert the model again.", file.where(),
            factors.shape[0], head_width / 2);
    std::vector<float> values(static_cast<size_t>(factors.shape[0]));
    factors.type->decode(factors.data, factors.shape[0] / factors.type->block, values.data());
    return {{"rope_type", "factors"}, {"factors", values}};
  }
  const std::string type = keys.text("rope.scaling.type", "none");
  const double factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1));
  if (type == "none" || (type == "linear" && factor == 1)) return nullptr;
  if (type == "linear") return {{"rope_type", "linear"}, {"factor", factor}};
  if (type != "yarn") keys.refuse("rope.scaling.type", "`" + printable(type) + "`");
  json scaling{{"rope_type", "yarn"}, {"factor", factor}};
  const auto put = [&](const char* key, const char* theirs) {
    if (keys.has(key)) scaling[theirs] = keys.number(key);
  };
  if (keys.has("rope.scaling.original_context_length"))
    scaling["original_max_position_embeddings"] = keys.count("rope.scaling.original_context_length");
  put("rope.scaling.yarn_beta_fast", "beta_fast");
  put("rope.scaling.yarn_beta_slow", "beta_slow");
  put("rope.scaling.attn_factor", "attention_factor");
  if (keys.has("rope.scaling.yarn_log_multiplier")) {  // 0.1 · mscale_all_dim; the models have mscale equal to it
    scaling["mscale"] = scaling["mscale_all_dim"] = 10 * keys.number("rope.scaling.yarn_log_multiplier");
  }
  return scaling;
}

// Widths of heads and what is rotated of them.
void add_heads(const Gguf& file, const Keys& keys, int64_t width, json& config) {
  const int64_t heads = keys.count("attention.head_count");
  const int64_t key = keys.count("attention.key_length", std::max<int64_t>(width / heads, 1));
  const int64_t value = keys.count("attention.value_length", key);
  config["num_attention_heads"] = heads;
  int64_t rotated = key;
  if ((keys.architecture.parts & latent) != 0) {
    const int64_t whole = keys.count("attention.key_length_mla", key);
    rotated = keys.count("rope.dimension_count");
    if (rotated >= whole) keys.refuse("rope.dimension_count", "rotated keys as wide as all keys");
    config["num_key_value_heads"] = heads;
    if (keys.has("attention.q_lora_rank")) config["q_lora_rank"] = keys.count("attention.q_lora_rank");
    config["kv_lora_rank"] = keys.count("attention.kv_lora_rank");
    config["qk_nope_head_dim"] = whole - rotated;
    config["qk_rope_head_dim"] = rotated;
    config["v_head_dim"] = keys.count("attention.value_length_mla", value);
  } else {
    config["num_key_value_heads"] = keys.count("attention.head_count_kv", heads);
    config["head_dim"] = key;
    if (value != key) keys.refuse("attention.value_length", "values of another width than keys");
    if (keys.count("rope.dimension_count", key) != key) keys.refuse("rope.dimension_count", "partly rotated heads");
  }
  config["rope_theta"] = keys.number("rope.freq_base", 10000);
  if (json scaling = rope_scaling(file, keys, rotated); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
}

void add_mixture(const Gguf& file, const Keys& keys, json& config) {
  const int64_t blocks = config["num_hidden_layers"];
  std::vector<int64_t> dense;  // blocks without experts
  const GgufTensor* experts = nullptr;
  const GgufTensor* shared = nullptr;
  for (int64_t block = 0; block < blocks; ++block) {
    if (file.find(in_block(block, "ffn_gate_inp.weight")) == nullptr) {
      dense.push_back(block);
    } else if (experts == nullptr) {
      experts = &needed(file, in_block(block, "ffn_up_exps.weight"), 3);
      shared = file.find(in_block(block, "ffn_up_shexp.weight"));
    }
  }
  if (experts == nullptr) return;
  const bool deepseek = keys.architecture.experts_key == std::string_view("n_routed_experts");
  config[keys.architecture.experts_key] = keys.count("expert_count");
  config["num_experts_per_tok"] = keys.count("expert_used_count");
  config["moe_intermediate_size"] = keys.count("expert_feed_forward_length", experts->shape[1]);
  const bool normalizes = keys.architecture.model_type == std::string_view("qwen3_moe");
  config["norm_topk_prob"] = keys.boolean("expert_weights_norm", normalizes);
  if (!config.contains("intermediate_size")) config["intermediate_size"] = config["moe_intermediate_size"];
  if (!deepseek) {
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = dense;
    if (shared != nullptr) config["shared_expert_intermediate_size"] = shared->shape[0];
    return;
  }
  config["first_k_dense_replace"] = static_cast<int64_t>(dense.size());
  for (size_t i = 0; i < dense.size(); ++i) {
    if (dense[i] != static_cast<int64_t>(i)) keys.refuse("block_count", "dense blocks behind blocks of experts");
  }
  config["moe_layer_freq"] = 1;
  config["n_shared_experts"] = shared == nullptr ? 0 : keys.count("expert_shared_count");
  const double scale = keys.number("expert_weights_scale", 1);
  config["routed_scaling_factor"] = scale == 0 ? 1 : scale;
  const bool softmax = !keys.has("expert_gating_func") || keys.count("expert_gating_func") == 1;
  config["scoring_func"] = softmax ? "softmax" : "sigmoid";
  if (keys.has("expert_group_count") && keys.number("expert_group_count") > 1)
    config["topk_method"] = "group_limited_greedy";
}

void add_special_tokens(const Gguf& file, json& config) {
  for (const char* which : {"bos", "eos"}) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", which);
    if (file.has(key)) config[fmt::format("{}_token_id", which)] = file.integer(key);
  }
}

// ---- tensors ----

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

// The row of the file that is row `row` of q_proj or k_proj: a head's first half holds the even ones, its second half
// the odd ones.
int64_t interleaved_row(int64_t row, int64_t head_width) {
  const int64_t half = head_width / 2, within = row % head_width;
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
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
    const auto row = std::find_if(kBlockTensors.begin(), kBlockTensors.end(),
                                  [&](const TensorName& name) { return part == name.ours; });
    const unsigned parts = keys_.architecture.parts | always;
    if (row == kBlockTensors.end() || (row->part & parts) == 0 || (kind != ".weight" && kind != ".bias"))
      unknown(tensor);
    add_of_block(tensor, *row, "model.layers." + tensor.name.substr(number, dot - number) + ".", kind);
  }

  void add_of_block(const GgufTensor& tensor, const TensorName& row, const std::string& block,
                    const std::string& kind) {
    const std::string ours = row.ours;
    if (ours.ends_with("_exps")) return add_experts(tensor, block + "mlp.experts.", row.theirs, kind);
    if (ours.ends_with("_shexp") && ours != "ffn_gate_inp_shexp") {
      const bool qwen = keys_.architecture.experts_key == std::string_view("num_experts");
      return put(block + (qwen ? "mlp.shared_expert." : "mlp.shared_experts.") + row.theirs + kind,
                 {&tensor, tensor.shape});
    }
    if (ours == "attn_v_b") return;  // with attn_k_b
    if (ours == "attn_k_b") return add_kv_b(tensor, block + row.theirs + kind);
    Place place{&tensor, tensor.shape};
    if (ours == "ffn_gate_inp_shexp" && tensor.shape.size() == 1) place.shape = {1, tensor.shape[0]};
    if (keys_.architecture.interleaved && (ours == "attn_q" || ours == "attn_k")) {
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
    const GgufTensor& v_b = needed(file_, block + "attn_v_b.weight", 3);
    require(k_b.shape.size() == 3 && v_b.shape[0] == k_b.shape[0] && v_b.shape[2] == k_b.shape[1],
            "{}: {} and {} do not belong together. Convert the model again.", file_.where(), k_b.name, v_b.name);
    put(name, {&k_b, {k_b.shape[0] * (k_b.shape[2] + v_b.shape[1]), k_b.shape[1]}, 0, 0, &v_b});
  }

  Gguf file_;
  Keys keys_;  // of file_
  std::vector<std::string> files_;
  int64_t head_width_ = 0;
  std::map<std::string, Place> places_;
};

}  // namespace

std::string gguf_config(const Gguf& file) {
  const Keys keys(file);
  const GgufTensor& embedding = needed(file, "token_embd.weight", 2);
  const int64_t width = keys.count("embedding_length");
  json config{{"model_type", keys.architecture.model_type},
              {"hidden_act", "silu"},
              {"hidden_size", width},
              {"num_hidden_layers", keys.count("block_count")},
              {"vocab_size", embedding.shape[0]},
              {"max_position_embeddings", keys.count("context_length")},
              {"rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon")},
              {"tie_word_embeddings", file.find("output.weight") == nullptr},
              {"attention_bias", file.find("blk.0.attn_q.bias") != nullptr},
              {"mlp_bias", file.find("blk.0.ffn_up.bias") != nullptr}};
  if (keys.has("feed_forward_length")) config["intermediate_size"] = keys.count("feed_forward_length");
  if (keys.has("attention.sliding_window") && keys.number("attention.sliding_window") > 0)
    keys.refuse("attention.sliding_window", "a sliding window");
  add_heads(file, keys, width, config);
  if ((keys.architecture.parts & mixture) != 0) {
    add_mixture(file, keys, config);
  } else if (keys.number("expert_count", 0) > 0) {
    keys.refuse("expert_count", "a mixture of experts");
  }
  add_special_tokens(file, config);
  return config.dump(2) + "\n";
}

std::shared_ptr<const TensorSource> gguf_tensors(const Gguf& file) { return std::make_shared<GgufTensors>(file); }

}  // namespace core
