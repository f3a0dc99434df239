describe_pantry <- function(shelves) {
  sprintf("%d shelves hold %d jars", as.integer(shelves), count_jars(shelves))
}
