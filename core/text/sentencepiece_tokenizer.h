// tokenizer.model through the sentencepiece library (Kudo and Richardson 2018, arXiv 1808.06226), as it encodes by
// default: the model's own normalization, a space put in front where the model says so, unknown characters as bytes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace core {

class SentencePieceTokenizer : public Tokenizer {
 public:
  // `model` is the content of tokenizer.model, `file` its name in messages.
  SentencePieceTokenizer(std::string_view model, const std::string& file);
  ~SentencePieceTokenizer() override;

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  int64_t vocabulary_size() const override;
  std::optional<int32_t> token_id(std::string_view token) const override;

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

}  // namespace core
