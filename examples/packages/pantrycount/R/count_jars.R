count_jars <- function(shelves) {
  .Call(C_count_jars, as.integer(shelves))
}
