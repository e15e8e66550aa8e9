#include "core/text/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/error.h"
#include "core/io/hash.h"
#include "core/text/utf8.h"

namespace core {
namespace {

std::optional<int32_t> if_set(int id) { return id >= 0 ? std::optional<int32_t>(id) : std::nullopt; }

std::unique_ptr<sentencepiece::SentencePieceProcessor> load(std::string_view model, const std::string& file) {
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const bool loaded = processor->LoadFromSerializedProto({model.data(), model.size()}).ok();
  require(loaded && processor->GetPieceSize() > 0, "{}: this is not a sentencepiece model. Replace the file.", file);
  return processor;
}

// Appended to a model, field 3 (normalizer_spec) with its field 3 (add_dummy_prefix) set to false: of a field that
// stands twice in a protocol buffer the later one counts.
constexpr std::string_view kNoPrefix("\x1a\x02\x18\x00", 4);

std::string text_of(const SentencePieceOptions& options) {
  std::string text = std::to_string(static_cast<int>(options.prefix));
  for (const AddedToken& t : options.added)
    text += fmt::format("\n{} {}{}{}{} {}", t.id, int{t.lstrip}, int{t.rstrip}, int{t.single_word}, int{t.normalized},
                        t.content);
  return text;
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view model, const std::string& file,
                                               const SentencePieceOptions& options)
    : processor_(load(model, file)), prefix_(options.prefix), size_(processor_->GetPieceSize()) {
  special_.bos_id = if_set(processor_->bos_id());
  if (const auto eos = if_set(processor_->eos_id())) special_.eos_ids = {*eos};
  hash_ = hash_text(model);
  if (options.added.empty() && prefix_ == SentencePieceOptions::Prefix::library) return;
  hash_ = hash_text(hash_ + text_of(options));
  without_prefix_ = load(std::string(model).append(kNoPrefix), file);
  for (const AddedToken& token : options.added) add(token);
  for (int id = 0; id < processor_->GetPieceSize(); ++id)
    if ((processor_->IsControl(id) || processor_->IsUnknown(id)) && !names_.contains(id) &&
        !ids_.contains(processor_->IdToPiece(id)))
      add({.content = processor_->IdToPiece(id), .id = id});
  std::vector<std::string> first;
  processor_->Encode("a", &first).IgnoreError();
  const bool has_prefix = !first.empty() && first[0].starts_with("\u2581");
  decoder_ = Decoder::of_sentencepiece(has_prefix && prefix_ != SentencePieceOptions::Prefix::never);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void SentencePieceTokenizer::add(const AddedToken& token) {
  (token.normalized ? normalized_ : raw_).add(token);
  names_[token.id] = token.content;
  ids_[token.content] = token.id;
  size_ = std::max<int64_t>(size_, token.id + 1);
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  require_utf8(text, "text to tokenize");
  std::vector<int32_t> ids;
  if (text.empty()) return ids;
  for (const AddedTokens::Part& part : raw_.split(text)) {
    if (part.id) {
      ids.push_back(*part.id);
      continue;
    }
    const std::string_view piece = text.substr(part.begin, part.end - part.begin);
    for (const AddedTokens::Part& inner : normalized_.split(piece)) {
      if (inner.id) {
        ids.push_back(*inner.id);
      } else {
        encode_piece(piece.substr(inner.begin, inner.end - inner.begin), part.begin + inner.begin == 0, ids);
      }
    }
  }
  return ids;
}

void SentencePieceTokenizer::encode_piece(std::string_view piece, bool begins, std::vector<int32_t>& ids) const {
  using Prefix = SentencePieceOptions::Prefix;
  const bool has_space = piece.starts_with(' ') || piece.starts_with("\u2581");
  const bool prefix = prefix_ == Prefix::library || (prefix_ == Prefix::always && (begins || !has_space)) ||
                      (prefix_ == Prefix::first && begins);
  std::vector<int> found;
  const auto status = (prefix ? processor_ : without_prefix_)->Encode({piece.data(), piece.size()}, &found);
  require(status.ok(), "text to tokenize: sentencepiece failed: {}. Check the text.", status.ToString());
  ids.insert(ids.end(), found.begin(), found.end());
}

std::string SentencePieceTokenizer::name(int32_t id) const {
  const auto added = names_.find(id);
  require(added != names_.end() || (id >= 0 && id < processor_->GetPieceSize()),
          "token id {} is not in the tokenizer's vocabulary (ids 0 to {}). Check that model and tokenizer belong "
          "together.",
          id, size_ - 1);
  return added != names_.end() ? added->second : processor_->IdToPiece(id);
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids) const {
  std::vector<std::string> tokens;
  for (const int32_t id : ids) tokens.push_back(name(id));
  if (decoder_) return (*decoder_)(std::move(tokens));
  std::string text;
  const auto status = processor_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  require(status.ok(), "token ids: sentencepiece failed: {}. Check the ids.", status.ToString());
  return text;
}

int64_t SentencePieceTokenizer::vocabulary_size() const { return size_; }

std::optional<int32_t> SentencePieceTokenizer::token_id(std::string_view token) const {
  if (const auto added = ids_.find(std::string(token)); added != ids_.end()) return added->second;
  const int id = processor_->PieceToId({token.data(), token.size()});
  const bool known = id != processor_->unk_id() || processor_->IdToPiece(id) == token;
  return known ? std::optional<int32_t>(id) : std::nullopt;
}

}  // namespace core
