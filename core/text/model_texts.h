// The small files of a model, those with texts: configuration and tokenizer. Of a GGUF file, what stands in their
// place.
#pragma once

#include <map>
#include <string>

namespace core {

struct ModelTexts {
  std::string where;                         // the folder or the GGUF file, for messages
  std::map<std::string, std::string> files;  // contents by name: "tokenizer.json"; those that are there

  bool has(const std::string& name) const { return files.count(name) > 0; }
  const std::string& at(const std::string& name) const { return files.at(name); }
  // How messages call a file: "models/x/tokenizer.json"; of a GGUF file its own name.
  std::string name_of(const std::string& name) const;
};

// Of what find_model has found. Errors: a file that cannot be read, a GGUF file that is broken or not implemented.
ModelTexts read_model_texts(const std::string& model);

}  // namespace core
