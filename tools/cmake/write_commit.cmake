# Writes OUTPUT from TEMPLATE with the commit of SOURCE: "unknown" without git, "-dirty" appended if files differ.
# Leaves OUTPUT alone when nothing changed, so that nothing is compiled again.
set(COMMIT unknown)
if(EXISTS ${SOURCE}/.git)
  execute_process(
    COMMAND git -c safe.directory=${SOURCE} -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
    OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
  if(result STREQUAL 0)
    set(COMMIT ${output})
  endif()
endif()
configure_file(${TEMPLATE} ${OUTPUT} @ONLY)
