# The version is that of the installed header. Before 1.0 a minor version may change the binary interface, from 1.0 on
# only a major one: the rule of the soname.

get_filename_component(_infer_header "${CMAKE_CURRENT_LIST_DIR}/../../../include/infer.h" ABSOLUTE)
set(PACKAGE_VERSION_COMPATIBLE FALSE)
set(PACKAGE_VERSION_EXACT FALSE)
if(NOT EXISTS "${_infer_header}")
  set(PACKAGE_VERSION "unknown")
  set(PACKAGE_VERSION_UNSUITABLE TRUE)
  return()
endif()

file(STRINGS "${_infer_header}" _infer_line REGEX "^#define INFER_VERSION \"[0-9.]+.*\"$")
string(REGEX REPLACE "^#define INFER_VERSION \"(.*)\"$" "\\1" PACKAGE_VERSION "${_infer_line}")
string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" _infer_found "${PACKAGE_VERSION}")
set(_infer_major "${CMAKE_MATCH_1}")
set(_infer_minor "${CMAKE_MATCH_2}")

if(PACKAGE_FIND_VERSION STREQUAL "")
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
elseif(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION)
  # Older than asked for.
elseif(NOT _infer_major EQUAL PACKAGE_FIND_VERSION_MAJOR)
  # Another binary interface.
elseif(_infer_major EQUAL 0 AND PACKAGE_FIND_VERSION_COUNT GREATER 1
       AND NOT _infer_minor EQUAL PACKAGE_FIND_VERSION_MINOR)
  # Another binary interface.
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
