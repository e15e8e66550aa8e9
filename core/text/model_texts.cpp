#include "core/text/model_texts.h"

#include "core/io/data_roots.h"
#include "core/io/files.h"
#include "core/io/gguf_model.h"
#include "core/io/gguf_sidecar.h"
#include "core/text/gguf_tokenizer.h"

namespace core {

std::string ModelTexts::name_of(const std::string& name) const {
  return is_directory(where) ? where + "/" + name : where;
}

ModelTexts read_model_texts(const std::string& model) {
  ModelTexts texts{model, {}};
  if (is_file(model)) {
    const Gguf file = open_base(model);
    texts.files = gguf_tokenizer(file);
    texts.files["config.json"] = gguf_config(file);
    return texts;
  }
  for (const char* name :
       {"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"}) {
    const std::string path = model + "/" + name;
    if (is_file(path)) texts.files[name] = read_file(path);
  }
  return texts;
}

}  // namespace core
