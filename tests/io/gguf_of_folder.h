// A Hugging Face folder of the embedded kind (Qwen3, tied) as a GGUF file.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/io/files.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "tests/io/gguf_bytes.h"

namespace core {

// Puts a tokenizer.json of bytes into a GGUF file, as llama.cpp's converter does. pre: its name of the pre-tokenizer.
inline void put_tokenizer(GgufBytes& file, const nlohmann::json& tokenizer, const std::string& pre) {
  std::vector<std::string> tokens, merges;
  std::vector<uint32_t> kinds;
  const auto put = [&](size_t id, const std::string& token, uint32_t kind) {
    if (tokens.size() <= id) tokens.resize(id + 1);
    kinds.resize(tokens.size(), 5);
    tokens[id] = token;
    kinds[id] = kind;
  };
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) put(id, token, 1);
  for (const nlohmann::json& token : tokenizer["added_tokens"])
    put(token["id"], token["content"], token["special"] ? 3 : 4);
  for (const nlohmann::json& merge : tokenizer["model"]["merges"])
    merges.push_back(merge.is_string() ? merge.get<std::string>()
                                       : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  file.key("tokenizer.ggml.model", std::string("gpt2"));
  file.key("tokenizer.ggml.pre", pre);
  file.key("tokenizer.ggml.tokens", tokens);
  file.key("tokenizer.ggml.token_type", kinds);
  file.key("tokenizer.ggml.merges", merges);
}

// A tokenizer.json of bytes alone.
inline GgufBytes as_gguf(const nlohmann::json& tokenizer, const std::string& pre) {
  GgufBytes file;
  put_tokenizer(file, tokenizer, pre);
  return file;
}

// The whole folder, with the element types that it has; matrices in Q8_0 where a function makes that of bfloat16.
inline GgufBytes qwen3_as_gguf(const std::string& folder, std::string (*as_q8_0)(const TensorView&) = nullptr) {
  GgufBytes file;
  const JsonObject config = JsonObject::read(folder + "/config.json");
  file.key("general.architecture", std::string("qwen3"));
  for (const auto& [ours, theirs] :
       std::map<std::string, std::string>{{"block_count", "num_hidden_layers"},
                                          {"context_length", "max_position_embeddings"},
                                          {"embedding_length", "hidden_size"},
                                          {"feed_forward_length", "intermediate_size"},
                                          {"attention.head_count", "num_attention_heads"},
                                          {"attention.head_count_kv", "num_key_value_heads"},
                                          {"attention.key_length", "head_dim"},
                                          {"attention.value_length", "head_dim"}})
    file.key("qwen3." + ours, static_cast<uint32_t>(config.integer(theirs)));
  file.key("qwen3.attention.layer_norm_rms_epsilon", static_cast<float>(config.number("rms_norm_eps")));
  file.key("qwen3.rope.freq_base", static_cast<float>(config.number("rope_theta")));
  put_tokenizer(file, nlohmann::json::parse(read_file(folder + "/tokenizer.json")), "qwen2");
  file.key("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(config.integer("bos_token_id")));
  file.key("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(config.integer("eos_token_id")));
  file.key("tokenizer.ggml.add_bos_token", false);

  const std::map<std::string, std::string> parts{
      {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  const std::map<DType, uint32_t> types{{DType::F32, 0}, {DType::F16, 1}, {DType::BF16, 30}};
  const Checkpoint checkpoint = Checkpoint::open(folder);
  for (const std::string& name : checkpoint.names()) {
    std::string ours = name == "model.embed_tokens.weight" ? "token_embd.weight" : "output_norm.weight";
    if (const std::string prefix = "model.layers."; name.starts_with(prefix)) {
      const size_t dot = name.find('.', prefix.size()), end = name.rfind('.');
      ours = "blk." + name.substr(prefix.size(), dot + 1 - prefix.size()) +
             parts.at(name.substr(dot + 1, end - dot - 1)) + ".weight";
    }
    const TensorView& view = checkpoint.at(name);
    if (as_q8_0 != nullptr && view.shape.size() == 2) {
      file.tensor(ours, {view.shape.begin(), view.shape.end()}, /*Q8_0*/ 8, as_q8_0(view));
      continue;
    }
    file.tensor(ours, {view.shape.begin(), view.shape.end()}, types.at(view.dtype),
                {reinterpret_cast<const char*>(view.data), view.bytes});
  }
  return file;
}

}  // namespace core
