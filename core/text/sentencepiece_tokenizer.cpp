#include "core/text/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include "core/error.h"
#include "core/io/hash.h"
#include "core/text/utf8.h"

namespace core {
namespace {

std::optional<int32_t> if_set(int id) { return id >= 0 ? std::optional<int32_t>(id) : std::nullopt; }

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view model, const std::string& file)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  const bool loaded = processor_->LoadFromSerializedProto({model.data(), model.size()}).ok();
  require(loaded && processor_->GetPieceSize() > 0, "{}: this is not a sentencepiece model. Replace the file.", file);
  special_.bos_id = if_set(processor_->bos_id());
  if (const auto eos = if_set(processor_->eos_id())) special_.eos_ids = {*eos};
  hash_ = hash_text(model);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  require_utf8(text, "text to tokenize");
  std::vector<int> ids;
  const auto status = processor_->Encode({text.data(), text.size()}, &ids);
  require(status.ok(), "text to tokenize: sentencepiece failed: {}. Check the text.", status.ToString());
  return {ids.begin(), ids.end()};
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids)
    require(id >= 0 && id < vocabulary_size(),
            "token id {} is not in the tokenizer's vocabulary (ids 0 to {}). Check that model and tokenizer belong "
            "together.",
            id, vocabulary_size() - 1);
  std::string text;
  const auto status = processor_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  require(status.ok(), "token ids: sentencepiece failed: {}. Check the ids.", status.ToString());
  return text;
}

int64_t SentencePieceTokenizer::vocabulary_size() const { return processor_->GetPieceSize(); }

std::optional<int32_t> SentencePieceTokenizer::token_id(std::string_view token) const {
  const int id = processor_->PieceToId({token.data(), token.size()});
  const bool known = id != processor_->unk_id() || processor_->IdToPiece(id) == token;
  return known ? std::optional<int32_t>(id) : std::nullopt;
}

}  // namespace core
