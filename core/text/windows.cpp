#include "core/text/windows.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/error.h"
#include "core/io/hash.h"

namespace core {

void require_in_embedding(const std::string& corpus, std::span<const int32_t> ids, int64_t embedding_rows) {
  for (size_t i = 0; i < ids.size(); ++i)
    require(ids[i] < embedding_rows,
            "{}: token {} has the id {}, but the model's embedding has {} rows. Use the tokenizer that belongs to the "
            "model.",
            corpus, i, ids[i], embedding_rows);
}

std::span<const int32_t> Windows::window(int64_t n) const {
  return std::span<const int32_t>(ids).subspan(static_cast<size_t>(n * seq_len), static_cast<size_t>(seq_len));
}

std::string resolve_bos(const std::string& bos, const std::string& protocol, const Tokenizer& tokenizer) {
  const bool known = bos == "none" || bos == "once" || bos == "window" || bos == "auto";
  require(known, "bos: `{}` is not known. Choose none, once, window or auto.", bos);
  const std::string published = !tokenizer.adds_bos() ? "none" : protocol == kLlamaCpp ? "window" : "once";
  const std::string resolved = bos == "auto" ? published : bos;
  require(resolved == "none" || tokenizer.bos_id().has_value(),
          "bos: `{}` asks for BOS, but the tokenizer has none. Set bos to none, or bos_token in tokenizer_config.json.",
          bos);
  return resolved;
}

Windows make_windows(const Corpus& corpus, const Tokenizer& tokenizer, const WindowOptions& options) {
  return make_windows(corpus, tokenizer.encode(corpus.text), tokenizer, options);
}

namespace {

// Moves `count` of `all` windows, spread evenly, to the front; fewer than all.
void spread(std::vector<int32_t>& ids, int64_t seq_len, int64_t count, int64_t all) {
  for (int64_t n = 0; n < count; ++n)
    std::copy_n(ids.begin() + n * all / count * seq_len, seq_len, ids.begin() + n * seq_len);
}

}  // namespace

Windows make_windows(const Corpus& corpus, std::vector<int32_t> ids, const Tokenizer& tokenizer,
                     const WindowOptions& options) {
  const bool halves = options.protocol == kLlamaCpp;
  require(halves || options.protocol == kGptq, "protocol: `{}` is not known. Choose {} or {}.", options.protocol, kGptq,
          kLlamaCpp);
  require(options.seq_len >= (halves ? 3 : 2), "seq_len: {} leaves nothing to predict. Choose at least {}.",
          options.seq_len, halves ? 3 : 2);
  Windows result;
  result.corpus = corpus.name;
  result.protocol = options.protocol;
  result.bos = resolve_bos(options.bos, options.protocol, tokenizer);
  result.seq_len = options.seq_len;
  result.first = halves ? options.seq_len / 2 : 0;
  result.ids = std::move(ids);
  const bool begins_with_bos = result.bos == "once" || (result.bos == "window" && halves);
  if (begins_with_bos) result.ids.insert(result.ids.begin(), *tokenizer.bos_id());

  const auto tokens = static_cast<int64_t>(result.ids.size());
  result.count = tokens / options.seq_len;
  require(result.count > 0 || halves,
          "{}: {} tokens are too few for one window of {}. Choose a smaller seq_len or a longer corpus.", corpus.name,
          tokens, options.seq_len);
  require(result.count > 1 || !halves,
          "{}: {} tokens are too few: llama.cpp's protocol needs two windows of {}. Choose a smaller seq_len or a "
          "longer corpus.",
          corpus.name, tokens, options.seq_len);
  if (corpus.windows > 0) result.count = std::min(result.count, corpus.windows);
  const int64_t all = result.count;
  if (options.windows > 0) result.count = std::min(all, options.windows);
  if (options.windows_from == kSpread && result.count < all) {
    spread(result.ids, options.seq_len, result.count, all);
    result.windows_from = kSpread;
  }
  result.ids.resize(static_cast<size_t>(result.count * options.seq_len));
  if (result.bos == "window")
    for (int64_t n = 0; n < result.count; ++n)
      result.ids[static_cast<size_t>(n * options.seq_len)] = *tokenizer.bos_id();
  if (options.embedding_rows > 0) require_in_embedding(corpus.name, result.ids, options.embedding_rows);
  result.token_hash = token_hash(result.ids);
  return result;
}

std::string token_hash(std::span<const int32_t> ids) {
  static_assert(std::endian::native == std::endian::little, "hashes are taken of little-endian ids");
  Hasher hasher;
  hasher.update(ids.data(), ids.size_bytes());
  return hasher.hex();
}

}  // namespace core
