// GGUF files as bytes, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace core {

// Collects keys and tensors, then lays them out as the format says.
class GgufBytes {
 public:
  void key(const std::string& name, const std::string& value) {
    keys_.push_back(text(name) + little(8, 4) + text(value));
  }
  void key(const std::string& name, uint32_t value) { keys_.push_back(text(name) + little(4, 4) + little(value, 4)); }
  void key(const std::string& name, uint16_t value) { keys_.push_back(text(name) + little(2, 4) + little(value, 2)); }
  void key(const std::string& name, float value) { keys_.push_back(text(name) + little(6, 4) + raw(value)); }
  void key(const std::string& name, bool value) { keys_.push_back(text(name) + little(7, 4) + little(value, 1)); }
  void key(const std::string& name, const std::vector<std::string>& values) {
    std::string list = text(name) + little(9, 4) + little(8, 4) + little(values.size(), 8);
    for (const std::string& value : values) list += text(value);
    keys_.push_back(std::move(list));
  }
  void key(const std::string& name, const std::vector<float>& values) {
    std::string list = text(name) + little(9, 4) + little(6, 4) + little(values.size(), 8);
    for (const float value : values) list += raw(value);
    keys_.push_back(std::move(list));
  }
  void key(const std::string& name, const std::vector<uint32_t>& values) {
    std::string list = text(name) + little(9, 4) + little(4, 4) + little(values.size(), 8);
    for (const uint32_t value : values) list += little(value, 4);
    keys_.push_back(std::move(list));
  }
  // A key as it stands in the file, e.g. with a type that does not exist.
  void raw_key(const std::string& name, const std::string& type_and_value) {
    keys_.push_back(text(name) + type_and_value);
  }

  // shape: outermost axis first.
  void tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type, const std::string& data) {
    std::string entry = text(name) + little(shape.size(), 4);
    for (size_t i = shape.size(); i-- > 0;) entry += little(shape[i], 8);
    tensors_.push_back(entry + little(type, 4) + little(data_.size(), 8));
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
  }
  void floats(const std::string& name, const std::vector<uint64_t>& shape, const std::vector<float>& values) {
    tensor(name, shape, 0, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::string header() const {
    std::string out = "GGUF" + little(3, 4) + little(tensors_.size(), 8) + little(keys_.size(), 8);
    for (const std::string& key : keys_) out += key;
    for (const std::string& tensor : tensors_) out += tensor;
    return out;
  }
  std::string bytes() const {
    std::string out = header();
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

  static std::string little(uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> 8 * i & 255);
    return out;
  }
  static std::string text(const std::string& value) { return little(value.size(), 8) + value; }

 private:
  static std::string raw(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return little(bits, 4);
  }

  std::vector<std::string> keys_, tensors_;
  std::string data_;
};

// A llama of one block, two heads of 2 and a vocabulary of five pieces with sentencepiece's tokenizer.
inline GgufBytes small_gguf() {
  GgufBytes file;
  file.key("general.architecture", std::string("llama"));
  for (const auto& [key, value] : std::vector<std::pair<std::string, uint32_t>>{{"block_count", 1},
                                                                                {"context_length", 16},
                                                                                {"embedding_length", 4},
                                                                                {"feed_forward_length", 6},
                                                                                {"attention.head_count", 2},
                                                                                {"attention.head_count_kv", 1}})
    file.key("llama." + key, value);
  file.key("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  file.key("tokenizer.ggml.model", std::string("llama"));
  file.key("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a"});
  file.key("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1, -2});
  file.key("tokenizer.ggml.token_type", std::vector<uint32_t>{2, 3, 3, 1, 1});
  file.key("tokenizer.ggml.bos_token_id", uint32_t{1});
  file.key("tokenizer.ggml.eos_token_id", uint32_t{2});
  float next = 0;
  const auto put = [&](const std::string& name, const std::vector<uint64_t>& shape) {
    uint64_t count = 1;
    for (const uint64_t size : shape) count *= size;
    std::vector<float> values;
    for (uint64_t i = 0; i < count; ++i) values.push_back(next += 0.125f);
    file.floats(name, shape, values);
  };
  put("token_embd.weight", {5, 4});
  put("output_norm.weight", {4});
  put("blk.0.attn_norm.weight", {4});
  put("blk.0.ffn_norm.weight", {4});
  put("blk.0.attn_q.weight", {4, 4});
  put("blk.0.attn_k.weight", {2, 4});
  put("blk.0.attn_v.weight", {2, 4});
  put("blk.0.attn_output.weight", {4, 4});
  put("blk.0.ffn_gate.weight", {6, 4});
  put("blk.0.ffn_up.weight", {6, 4});
  put("blk.0.ffn_down.weight", {4, 6});
  return file;
}

}  // namespace core
