// The architectures of GGUF files that Refrain reads and writes, and the keys of one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/io/gguf.h"

namespace core {

// Parts of an architecture; what a tensor's name belongs to.
enum GgufPart : unsigned { always = 1, head_norms = 2, mixture = 4, shared_experts = 8, latent = 16 };

struct GgufArchitecture {
  const char* name;         // in the file
  const char* model_type;   // in config.json
  unsigned parts;           // beside `always`
  bool interleaved;         // rows of q and k
  const char* experts_key;  // config.json's name for their number; null: dense

  bool has(GgufPart part) const { return (parts & part) != 0; }
  // Whether rows of a tensor of blocks stand in the order of llama.cpp's rotary embedding.
  bool interleaves(std::string_view tensor) const { return interleaved && (tensor == "attn_q" || tensor == "attn_k"); }
  // Hugging Face's name of the module of shared experts.
  const char* shared_experts() const {
    const bool qwen = experts_key != nullptr && experts_key == std::string_view("num_experts");
    return qwen ? "shared_expert" : "shared_experts";
  }
};

// That of a file. Error: another one, by name, with those that are read.
const GgufArchitecture& architecture_of(const Gguf& file);
// That of a model_type of config.json; null: there is none.
const GgufArchitecture* find_architecture(std::string_view model_type);

// The keys of one architecture: `attention.head_count` is `llama.attention.head_count`.
class GgufKeys {
 public:
  explicit GgufKeys(const Gguf& file) : architecture(architecture_of(file)), file_(file) {}

  std::string path(const std::string& key) const { return std::string(architecture.name) + "." + key; }
  bool has(const std::string& key) const { return file_.has(path(key)); }
  double number(const std::string& key) const { return file_.number(path(key)); }
  double number(const std::string& key, double otherwise) const { return file_.number(path(key), otherwise); }
  std::string text(const std::string& key, const std::string& otherwise) const {
    return file_.text(path(key), otherwise);
  }
  bool boolean(const std::string& key, bool otherwise) const { return file_.boolean(path(key), otherwise); }
  // A number from 1 to 2^31 - 1; a list, one per block, must repeat one. Errors: anything else.
  int64_t count(const std::string& key) const;
  int64_t count(const std::string& key, int64_t otherwise) const { return has(key) ? count(key) : otherwise; }

  // Refuses a key by name; `what` says what it asks for.
  [[noreturn]] void refuse(const std::string& key, const std::string& what) const;

  const GgufArchitecture& architecture;

 private:
  const Gguf& file_;
};

// The tensor of this name with so many axes. Errors: missing, others.
const GgufTensor& needed_tensor(const Gguf& file, const std::string& name, size_t axes);

}  // namespace core
