{{/* The name of the chart, or what stands for it. */}}
{{- define "checkdam.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of all objects. Where the release is called like the chart, it is not said twice. */}}
{{- define "checkdam.fullname" -}}
{{- $name := include "checkdam.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end -}}

{{/* The name of objects that exist once in a cluster: two releases in two namespaces must not meet there. */}}
{{- define "checkdam.clusterName" -}}
{{- $name := include "checkdam.fullname" . -}}
{{- if eq $name .Release.Namespace -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace $name -}}
{{- end -}}
{{- end -}}

{{/* What tells the operator's pods from others. */}}
{{- define "checkdam.selectorLabels" -}}
app.kubernetes.io/name: {{ include "checkdam.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "checkdam.labels" -}}
{{ include "checkdam.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: checkdam
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "checkdam.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "checkdam.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name must be given where serviceAccount.create is false: the operator cannot work as the default account" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "checkdam.metricsSecretName" -}}
{{- default (printf "%s-metrics" (include "checkdam.fullname" .)) .Values.metrics.existingSecret -}}
{{- end -}}

{{/* An image as containers name it. Takes a list of the value and the context. */}}
{{- define "checkdam.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1).Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}
