#include "core/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"
#include "core/text/oniguruma.h"
#include "core/text/utf8.h"

namespace core {
namespace {

constexpr size_t kJitStackBytes = size_t{32} << 20;  // reserved, used only by patterns that remember much

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Pattern::Compiled {
  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
};

void Pattern::Free::operator()(Compiled* compiled) const {
  pcre2_match_data_free(compiled->match);
  pcre2_match_context_free(compiled->context);
  pcre2_jit_stack_free(compiled->stack);
  pcre2_code_free(compiled->code);
  delete compiled;
}

Pattern Pattern::regex(std::string_view pattern, const std::string& where) {
  return Pattern(to_pcre2(pattern, where), pattern, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, where);
}

Pattern Pattern::literal(std::string_view text, const std::string& where) {
  require(!text.empty(), "{}: an empty pattern cannot split. Give it a text.", where);
  return Pattern(text, text, PCRE2_UTF | PCRE2_LITERAL, where);
}

Pattern Pattern::of(const JsonNode& json) {
  const JsonNode text = json.at("Regex");
  return text.is_null() ? literal(json.at("String").text(), json.where()) : regex(text.text(), json.where());
}

Pattern::Pattern(std::string_view pattern, std::string_view shown, uint32_t options, const std::string& where)
    : shown_(shown), where_(where), compiled_(new Compiled) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  compiled_->code = pcre2_compile(units(pattern), pattern.size(), options, &error, &offset, context.get());
  require(compiled_->code != nullptr, "{}: pattern `{}` is not a regular expression: {}. Correct the pattern.", where,
          shown, message_of(error));
  pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);  // an error only means: interpreted
  compiled_->match = pcre2_match_data_create(1, nullptr);
  compiled_->context = pcre2_match_context_create(nullptr);
  compiled_->stack = pcre2_jit_stack_create(size_t{32} << 10, kJitStackBytes, nullptr);
  pcre2_jit_stack_assign(compiled_->context, nullptr, compiled_->stack);
}

std::vector<Pattern::Piece> Pattern::split(std::string_view text) const {
  std::vector<Piece> pieces;
  const auto keep = [&](size_t begin, size_t end, bool is_match) {
    if (end > begin) pieces.push_back({text.substr(begin, end - begin), is_match});
  };
  size_t done = 0;  // the text before it is in pieces
  for (size_t from = 0; from < text.size();) {
    const int found = pcre2_match(compiled_->code, units(text), text.size(), from, PCRE2_NO_UTF_CHECK, compiled_->match,
                                  compiled_->context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    require(found >= 0, "{}: pattern `{}` gave up at byte {} of a piece of text: {}. Shorten the runs in the text.",
            where_, shown_, from, message_of(found));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(compiled_->match);
    keep(done, span[0], false);
    keep(span[0], span[1], true);
    done = span[1];
    // An empty match cuts, and the search goes on one character later.
    from = span[1] > span[0] || span[1] == text.size() ? span[1] : span[1] + utf8_length(text[span[1]]);
  }
  keep(done, text.size(), false);
  return pieces;
}

std::string Pattern::replace(std::string_view text, std::string_view with) const {
  std::string replaced;
  for (const Piece& piece : split(text)) replaced += piece.is_match ? with : piece.text;
  return replaced;
}

}  // namespace core
